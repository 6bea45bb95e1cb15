"""Where somebody speaks: the Silero voice activity detector without torch or ONNX Runtime.

    pip install 'fastconv1d[examples]' && pip install --no-deps silero-vad
    python examples/silero_vad.py FILE.wav [--plot out.png] [--check]

The weights (MIT licence) come from the package silero-vad, of which nothing is imported, so that it
needs no torch; --weights FILE takes them from elsewhere. Prints a table of segments; --plot draws
the probabilities over the waveform. --check compares with ONNX Runtime on the package's
silero_vad_16k_op15.onnx: largest difference, and microseconds for each chunk of 32 ms. It takes the
weights of that file, too, because those in the package's safetensors are of another training.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import sys
import time
import warnings
from pathlib import Path

import numpy as np

import fastconv1d
from fastconv1d import Conv1d

RATE, CHUNK, CONTEXT, PAD = 16000, 512, 64, 64
STATE = 128
THRESHOLD, RELEASE = 0.5, 0.35  # speech begins above, and ends below
SHORTEST_SPEECH, SHORTEST_SILENCE, MARGIN = 0.25, 0.1, 0.03  # seconds
ONNX_NAMES = {
    "stft": "stft_conv",
    **{f"encoder.{i}.reparam_conv": f"conv{i + 1}" for i in range(4)},
    "decoder.rnn": "lstm_cell",
    "decoder.decoder.2": "final_conv",
}


class VadError(Exception):
    """What is wrong with a file, in one line."""


class SileroVad:
    """The detector for one stream of 16 kHz audio: call it on chunks, in their order."""

    def __init__(self, weights: str | Path) -> None:
        state = load_weights(Path(weights))
        self.stft = Conv1d.from_state_dict(state, "stft_conv", stride=128)
        self.conv1 = Conv1d.from_state_dict(state, "conv1", padding=1, activation="relu")
        self.conv2 = Conv1d.from_state_dict(state, "conv2", padding=1, stride=2, activation="relu")
        # A chunk has two frames here and then one: the other taps only ever meet padding.
        self.conv3 = _with_taps(state, "conv3", slice(1, 3))
        self.conv4 = _with_taps(state, "conv4", slice(1, 2))
        # sigmoid(x) = tanh(x / 2) / 2 + 1 / 2: with halved rows one tanh serves all four gates
        half = np.repeat(np.float32([0.5, 0.5, 1, 0.5]), STATE)  # input, forget, cell, output
        self.from_input = np.ascontiguousarray(state["lstm_cell.weight_ih"].T * half)
        self.from_hidden = np.ascontiguousarray(state["lstm_cell.weight_hh"] * half[:, None])
        self.gate_bias = (state["lstm_cell.bias_ih"] + state["lstm_cell.bias_hh"]) * half
        self.final_weight = state["final_conv.weight"][0, :, 0]
        self.final_bias = state["final_conv.bias"][0]
        self.reset()

    def reset(self) -> None:
        """Begin a new stream."""
        self.context = np.zeros(CONTEXT, np.float32)
        self.hidden = np.zeros(STATE, np.float32)
        self.cell = np.zeros(STATE, np.float32)

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """Return the probability of speech in each chunk of 512 samples, one or many."""
        gates = self.encode(audio) @ self.from_input + self.gate_bias
        hidden = np.empty((len(gates), STATE), np.float32)
        for row, gate in enumerate(gates):
            np.add(gate, self.from_hidden @ self.hidden, out=gate)
            np.tanh(gate, out=gate)
            gate[: 2 * STATE] += 1
            gate[3 * STATE :] += 1
            i, f, g, o = gate.reshape(4, STATE)
            self.cell = (f * self.cell + i * g) * np.float32(0.5)
            self.hidden = np.multiply(o * np.float32(0.5), np.tanh(self.cell), out=hidden[row])
        logits = np.maximum(hidden, 0) @ self.final_weight + self.final_bias
        return 0.5 * np.tanh(0.5 * logits) + 0.5

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Return the features (n, 128) of n chunks; each sees the end of the one before it."""
        chunks = audio.reshape(-1, CHUNK)
        padded = np.empty((len(chunks), 1, CONTEXT + CHUNK + PAD), np.float32)
        rows = padded[:, 0]
        rows[0, :CONTEXT] = self.context
        rows[1:, :CONTEXT] = chunks[:-1, -CONTEXT:]
        rows[:, CONTEXT:-PAD] = chunks
        rows[:, -PAD:] = rows[:, -PAD - 2 : -2 * PAD - 2 : -1]  # reflected
        self.context = chunks[-1, -CONTEXT:].copy()
        spectrum = self.stft(padded)
        real, imaginary = spectrum[:, :129], spectrum[:, 129:]
        x = np.sqrt(real * real + imaginary * imaginary)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = conv(x)
        return x[:, :, 0]


def load_weights(path: Path) -> dict[str, np.ndarray]:
    """Return the state dict of a safetensors or npz file, or that in one of the ONNX files."""
    if path.suffix != ".onnx":
        return fastconv1d.load_file(path)
    import onnx

    state = {}
    for tensor in onnx.load(path).graph.initializer:
        layer, _, name = tensor.name.removeprefix("model.").rpartition(".")
        state[f"{ONNX_NAMES[layer]}.{name}"] = onnx.numpy_helper.to_array(tensor)
    state["stft_conv.weight"] = state.pop("stft_conv.forward_basis_buffer")
    return state


def _with_taps(state: dict[str, np.ndarray], prefix: str, taps: slice) -> Conv1d:
    weight = state[prefix + ".weight"][:, :, taps]
    parameters = {"weight": weight, "bias": state[prefix + ".bias"]}
    return Conv1d.from_state_dict(parameters, activation="relu")


def package_file(name: str) -> Path:
    """Return the path of a file of the package silero-vad, without importing it."""
    try:
        package = importlib.metadata.distribution("silero-vad")
    except importlib.metadata.PackageNotFoundError:
        raise VadError(
            "no package silero-vad: pip install --no-deps silero-vad, or --weights FILE"
        ) from None
    return Path(str(package.locate_file(f"silero_vad/data/{name}")))


def read_audio(path: str | Path) -> np.ndarray:
    """Return a WAV file as one channel of float32 at 16 kHz."""
    from scipy.io import wavfile

    if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for
        raise VadError(f"{path}: no regular file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message="Chunk .non-data. not understood")
            rate, samples = wavfile.read(path)
    except OSError as error:
        raise VadError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # warnings of truncated files included
        raise VadError(f"{path}: no complete WAV file: {' '.join(str(error).split())}") from error
    if samples.dtype == np.uint8:
        audio = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        audio = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    else:
        audio = samples.astype(np.float32)
    if audio.ndim == 2:
        audio = audio.mean(axis=1)
    if not len(audio):
        raise VadError(f"{path}: no samples")
    if rate < 1000:
        raise VadError(f"{path}: a sampling rate of {rate} Hz")
    if not np.isfinite(audio).all():
        raise VadError(f"{path}: samples that are not finite")
    if rate != RATE:
        from scipy.signal import resample_poly

        common = math.gcd(rate, RATE)
        audio = resample_poly(audio, RATE // common, rate // common).astype(np.float32)
    return audio


def whole_chunks(audio: np.ndarray) -> np.ndarray:
    """Return the audio with zeros up to the end of its last chunk."""
    return np.pad(audio, (0, -len(audio) % CHUNK))


def probabilities(detector: SileroVad, audio: np.ndarray, block: int = 32) -> np.ndarray:
    """Return the probability of speech in each chunk of a recording, `block` chunks a call."""
    detector.reset()
    padded, step = whole_chunks(audio), block * CHUNK
    return np.concatenate([detector(padded[i : i + step]) for i in range(0, len(padded), step)])


def segments(probability: np.ndarray, duration: float) -> list[tuple[float, float]]:
    """Return begin and end in seconds of what is spoken, by the package's default rules."""
    spoken: list[list[float]] = []
    begin = silence = None
    for index, p in enumerate(probability):
        now = index * CHUNK / RATE
        if p >= THRESHOLD:
            begin, silence = now if begin is None else begin, None
        elif begin is not None and p < RELEASE:
            silence = now if silence is None else silence
            if now - silence >= SHORTEST_SILENCE:
                spoken.append([begin, silence])
                begin = silence = None
    if begin is not None:
        spoken.append([begin, duration])
    spoken = [s for s in spoken if s[1] - s[0] > SHORTEST_SPEECH]
    for index, (start, end) in enumerate(spoken):
        before = spoken[index - 1][1] if index else 0.0
        after = spoken[index + 1][0] if index + 1 < len(spoken) else duration
        spoken[index] = [
            max(start - MARGIN, (before + start) / 2 if index else 0.0),
            min(end + MARGIN, (end + after) / 2 if index + 1 < len(spoken) else duration),
        ]
    return [(start, end) for start, end in spoken]


def plot(path: str | Path, audio: np.ndarray, probability: np.ndarray, spoken: list) -> None:
    """Draw the probabilities over the waveform."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, wave = pyplot.subplots(figsize=(10, 3), layout="constrained")
    wave.plot(np.arange(len(audio)) / RATE, audio, color="0.6", linewidth=0.4)
    wave.set(xlabel="seconds", ylabel="amplitude", xlim=(0, len(audio) / RATE))
    for begin, end in spoken:
        wave.axvspan(begin, end, color="tab:green", alpha=0.15, linewidth=0)
    chance = wave.twinx()
    middles = (np.arange(len(probability)) + 0.5) * CHUNK / RATE
    chance.plot(middles, probability, color="tab:blue", linewidth=1)
    chance.set(ylabel="probability of speech", ylim=(0, 1.02))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def check(audio: np.ndarray) -> float:
    """Compare with ONNX Runtime, in turns; return the largest difference of probabilities."""
    import onnxruntime
    from threadpoolctl import threadpool_limits

    path = package_file("silero_vad_16k_op15.onnx")
    detector = SileroVad(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    padded, rate = whole_chunks(audio), np.array(RATE)
    chunks = padded.reshape(-1, CHUNK)

    def peer():
        state = np.zeros((2, 1, STATE), np.float32)
        stream = np.concatenate([np.zeros(CONTEXT, np.float32), padded])
        found = []
        for begin in range(0, len(padded), CHUNK):
            feed = {"input": stream[None, begin : begin + CONTEXT + CHUNK], "sr": rate}
            output, state = session.run(None, {**feed, "state": state})
            found.append(output[0, 0])
        return np.array(found)

    def by_chunks():
        detector.reset()
        return np.concatenate([detector(chunk) for chunk in chunks])

    contestants = {
        "ONNX Runtime, a chunk a call": peer,
        "fastconv1d, a chunk a call": by_chunks,
        "fastconv1d, 32 chunks a call": lambda: probabilities(detector, audio),
    }
    expected, times = peer(), {name: [] for name in contestants}
    difference = max(float(np.abs(run() - expected).max()) for run in contestants.values())
    print(f"largest difference to ONNX Runtime: {difference:.1e}")
    with fastconv1d.num_threads(1), threadpool_limits(1):
        for _ in range(max(5, 2000 // len(chunks))):
            for name, run in contestants.items():
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
    for name, taken in times.items():
        print(f"{name}: {1e6 * float(np.median(taken)) / len(chunks):.1f} us a chunk")
    return difference


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="a WAV file")
    parser.add_argument("--plot", metavar="PNG", help="draw waveform and probabilities")
    parser.add_argument("--check", action="store_true", help="compare with ONNX Runtime")
    parser.add_argument("--weights", metavar="FILE", help="silero_vad_16k.safetensors")
    options = parser.parse_args(arguments)
    try:
        audio = read_audio(options.file)
        detector = SileroVad(options.weights or package_file("silero_vad_16k.safetensors"))
        probability = probabilities(detector, audio)
        spoken = segments(probability, len(audio) / RATE)
        print(f"{'begin s':>8} {'end s':>8} {'mean probability':>17}")
        for begin, end in spoken:
            first, last = int(begin * RATE) // CHUNK, math.ceil(end * RATE / CHUNK)
            print(f"{begin:8.2f} {end:8.2f} {probability[first:last].mean():17.3f}")
        print(f"{sum(e - b for b, e in spoken):.2f} of {len(audio) / RATE:.2f} seconds are speech")
        if options.plot:
            plot(options.plot, audio, probability, spoken)
        if options.check:
            check(audio)
    except (VadError, OSError, fastconv1d.WeightFileError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
