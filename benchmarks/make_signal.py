"""Write fastconv1d/data/signal.wav: 1.8 s of a synthetic voice, 16-bit mono at 16 kHz.

A glottal pulse train with a gliding pitch goes through formant resonators that move from vowel to
vowel; a noise burst stands for the consonant between syllables.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.io import wavfile
from scipy.signal import lfilter

TARGET = Path(__file__).resolve().parent.parent / "fastconv1d" / "data" / "signal.wav"
RATE = 16_000
SYLLABLE = 0.36  # seconds
VOWELS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (570, 840, 2410),
    (300, 870, 2240),
    (530, 1840, 2480),
)
BANDWIDTHS = (80.0, 100.0, 140.0)


def voice(n_samples, pitch_from, pitch_to, rng):
    """Return a pulse train whose pitch glides, with a little jitter and breath."""
    jitter = 1 + 0.01 * rng.standard_normal(n_samples)
    pitch = np.linspace(pitch_from, pitch_to, n_samples) * jitter
    phase = np.cumsum(pitch / RATE)
    pulses = np.diff(np.floor(phase), prepend=0.0)
    return lfilter([1.0], [1.0, -0.95], pulses) + 0.02 * rng.standard_normal(n_samples)


def resonate(source, formants):
    """Pass the source through one two-pole resonator a formant."""
    for frequency, bandwidth in zip(formants, BANDWIDTHS, strict=True):
        radius = np.exp(-np.pi * bandwidth / RATE)
        angle = 2 * np.pi * frequency / RATE
        poles = [1.0, -2 * radius * np.cos(angle), radius**2]
        source = lfilter([sum(poles)], poles, source)
    return source


def syllable(formants, index, rng):
    """Return one consonant-like burst and a vowel with a smooth envelope."""
    n_samples = int(SYLLABLE * RATE)
    vowel = resonate(voice(n_samples, 150 - 8 * index, 118 - 5 * index, rng), formants)
    vowel *= np.hanning(n_samples) ** 0.5 / np.max(np.abs(vowel))
    n_burst = n_samples // 8
    burst = np.diff(rng.standard_normal(n_burst + 1)) * np.hanning(n_burst)
    vowel[:n_burst] += 0.12 * burst
    return vowel


def main(arguments=None):
    """Generate the file; the seed makes it the same every time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", type=Path, default=TARGET, help="(default: shipped)")
    target = parser.parse_args(arguments).target
    rng = np.random.default_rng(1876)
    signal = np.concatenate([syllable(f, i, rng) for i, f in enumerate(VOWELS)])
    samples = np.round(signal / np.max(np.abs(signal)) * 0.8 * 32767).astype(np.int16)
    wavfile.write(target, RATE, samples)
    print(f"{target}: {samples.size} samples, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
