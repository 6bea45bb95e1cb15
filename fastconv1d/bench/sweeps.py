"""What ``bench --subject`` times beside the layers of layers.csv: one size varied at a time."""

from dataclasses import replace

from .layers import Layer, load_layers, select_layers

# a small dense layer: at 10^7 columns its input and output take 320 MB each in float32
LONG = Layer(
    "long",
    transposed=False,
    network="sweep",
    n_batch=1,
    c_in=8,
    c_out=8,
    l_in=1000,
    kernel_size=9,
    stride=1,
    padding=4,
    dilation=1,
    groups=1,
    output_padding=0,
)
LENGTHS = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
DENSE = replace(LONG, name="dense", c_in=64, c_out=64, l_in=2048)
DEPTHWISE = replace(LONG, name="depthwise", c_in=128, c_out=128, l_in=2048, groups=128)
KERNEL_SIZES = (1, 2, 3, 5, 9, 17, 33, 65, 129, 257)
# dense, strided, dilated, grouped, depthwise, transposed and small
THREADED = (
    "tiny,stream_small,ecapa_g,pw_512,whisper_stem2,w2v_pos,wavenet_d512,quartz_dw33,hifi_up2_t"
)


def lengths() -> list[Layer]:
    """Return one layer at lengths from 10^3 to 10^7."""
    return [replace(LONG, name=f"length_{length}", l_in=length) for length in LENGTHS]


def kernel_sizes() -> list[Layer]:
    """Return a dense and a depthwise layer at kernel sizes from 1 to 257."""
    return [
        replace(base, name=f"{base.name}_k{size}", kernel_size=size, padding=size // 2)
        for base in (DENSE, DEPTHWISE)
        for size in KERNEL_SIZES
    ]


def threaded() -> list[Layer]:
    """Return the layers that are timed at each number of threads."""
    return select_layers(load_layers(), THREADED)


SUBJECTS = {
    "layers": load_layers,
    "length": lengths,
    "kernel": kernel_sizes,
    "threads": threaded,
}
QUICK_FLOPS = 2e7


def subject_layers(subject: str, pattern: str, quick: bool) -> list[Layer]:
    """Return the layers of a subject whose names match; if quick, a sweep's small ones alone."""
    layers = select_layers(SUBJECTS[subject](), pattern)
    if quick and subject != "layers":
        return [layer for layer in layers if layer.flops("float32") < QUICK_FLOPS]
    return layers
