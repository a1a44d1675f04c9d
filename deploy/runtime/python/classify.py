#!/usr/bin/env python3
# Copyright the edgekd authors
# SPDX-License-Identifier: Apache-2.0
"""Say what is in a photograph: a bundle's model through its own runtime, without torch and without edgekd.

    python classify.py photo.jpg [more.jpg ...] [--bundle DIR] [--top 5] [--threads N] [--json] [--pixels FILE]

Needs Python 3.9 or newer, numpy, pillow, and onnxruntime or openvino (requirements.txt beside this file says which). What
a photograph becomes is what it became in training, bit for bit: `decode` and `prepare` below follow `contract.json`. Images
that cannot be used are refused, never repaired. Exit codes: 0; 2 for a mistake in what was asked; 4 for a missing package.

Axes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any, Callable, NoReturn

import numpy as np
from PIL import Image

Array = Any  # np.ndarray
Answer = Callable[[Array], Array]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 64_000_000
ORIENTATION_TAG = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# ------------------------------------------------------------------------------------------------- photograph -> pixels
def decode(path: Path) -> Image.Image:
    """Return an image file as upright RGB: transparency on white, 16-bit grey scaled, the first of several frames."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"larger than {MAX_PIXELS // 10**6} megapixels")
                image.load()
                return upright(to_rgb(image), orientation_of(image))
        # Broken files make Pillow's decoders raise nearly anything.
        except Exception as error:  # noqa: BLE001
            complain(f"{path}: cannot be read as {', '.join(FORMATS)}: {' '.join(str(error).split())[:120]}")


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(eight_bit_grey(image)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        ground.alpha_composite(rgba)
        return ground.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def eight_bit_grey(image: Image.Image) -> Array:
    """Return the grey values of a 16-bit, 32-bit or float image as 0..255, rounded."""
    grey_HW = np.asarray(image)
    most = 1 if image.mode == "F" else 65535
    if not (grey_HW.min() >= 0 and grey_HW.max() <= most):
        raise ValueError(f"pixels outside 0..{most}, whose white is not known")
    if image.mode == "F":
        return np.rint(grey_HW * np.float32(255)).astype(np.uint8)
    return ((grey_HW.astype(np.uint32) + 128) // 257).astype(np.uint8)


def orientation_of(image: Image.Image) -> int:
    """Return which way up the camera was held, as EXIF numbers it; 1 where that cannot be read."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - a broken EXIF block makes Pillow raise nearly anything
        return 1
    return value if isinstance(value, int) else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image turned and mirrored as its orientation says."""
    turn = TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def prepare(photo: Image.Image, rules: dict[str, Any]) -> Array:
    """Return the uint8 pixels_HWC that the model is given: resized with antialiasing and cropped, unless it does that."""
    if rules.get("resize_inside"):
        return np.asarray(photo)
    height, width = rules["size_px"]
    kernel = Image.Resampling[rules["interpolation"].upper()]
    if rules["crop"] == "squash":
        return np.asarray(photo.resize((width, height), kernel))
    if rules["crop"] != "center":
        complain(f"contract.json: crop {rules['crop']!r} is not one that this program knows", code=5)
    side = rules["resize_px"]
    if side < max(height, width):
        complain("contract.json: the crop is larger than the resized image", code=5)
    short, long = sorted(photo.size)
    resized_long = int(side * long / short)
    new_width, new_height = (resized_long, side) if photo.width > photo.height else (side, resized_long)
    left, top = round((new_width - width) / 2), round((new_height - height) / 2)
    if new_width * new_height > MAX_PIXELS:  # a strip of 1 x 10,000 px: cut the crop out of the original
        across, down = photo.width / new_width, photo.height / new_height
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        return np.asarray(photo.resize((width, height), kernel, box=box))
    if (new_width, new_height) != photo.size:
        photo = photo.resize((new_width, new_height), kernel)
    return np.asarray(photo.crop((left, top, left + width, top + height)))


def tensor_of(pixels_HWC: Array, contract: dict[str, Any]) -> Array:
    """Return the pixels as the model's input tensor, with a batch axis: its type, its layout and its batch."""
    spec = contract["inputs"][0]
    batch, *sides = spec["shape"]
    # A text stands for a side that may be anything.
    last, first = (
        [side if isinstance(side, str) else found for side, found in zip(sides, shape)] for shape in forms(pixels_HWC)
    )
    if sides not in (last, first):
        complain(f"contract.json: an input of shape {spec['shape']} is not one that this program knows", code=5)
    tensor = pixels_HWC if sides == last else pixels_HWC.transpose(2, 0, 1)
    if spec["dtype"] == "float32":
        tensor = np.divide(tensor, np.float32(255), dtype=np.float32)
    elif spec["dtype"] != "uint8":
        complain(f"contract.json: an input of type {spec['dtype']} is not one that this program knows", code=5)
    return np.ascontiguousarray(np.stack([tensor] * (batch if isinstance(batch, int) else 1)))


def forms(pixels_HWC: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the pixels' shape with the channels last, and with the channels first."""
    height, width, channels = pixels_HWC.shape
    return (height, width, channels), (channels, height, width)


# -------------------------------------------------------------------------------------------------- pixels -> classes
def open_model(bundle: Path, contract: dict[str, Any], threads: int) -> Answer:
    """Load the bundle's model and return a function from its input tensor to logits_BK."""
    known = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}
    if contract["runtime"] not in known:
        complain(f"contract.json: this program knows {' and '.join(known)}, not {contract['runtime']}", code=5)
    try:
        return known[contract["runtime"]](bundle / contract["files"][0]["path"], contract, threads)
    except ImportError as error:
        complain(f"{error}; to mend: pip install -r {Path(__file__).with_name('requirements.txt')}", code=4)


def open_onnxruntime(model: Path, contract: dict[str, Any], threads: int) -> Answer:
    """Load an .onnx file with ONNX Runtime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name, answer = contract["inputs"][0]["name"], contract["outputs"][0]["name"]
    return lambda tensor: session.run([answer], {name: tensor})[0]


def open_openvino(model: Path, contract: dict[str, Any], threads: int) -> Answer:
    """Load an .xml and its .bin with OpenVINO, on the CPU, computing in the precision that was measured."""
    # OpenVINO reports each import of itself to its maker through this package, and does without where it is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    core = openvino.Core()
    # Left alone, OpenVINO computes float32 models in bfloat16 on processors that have it.
    halves = contract["precision"] == "fp16" and "FP16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    wanted = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f16" if halves else "f32",
    }
    request = core.compile_model(core.read_model(str(model)), "CPU", wanted).create_infer_request()

    def answer(tensor: Array) -> Array:
        request.infer([tensor])
        return request.get_output_tensor(0).data.copy()

    return answer


def best(logits_K: Array, classes: list[str], count: int) -> list[tuple[str, float]]:
    """Return the most probable classes with their probabilities, best first; the first of equals comes first."""
    shifted_K = np.exp(logits_K.astype(np.float64) - float(logits_K.max()))
    probability_K = shifted_K / shifted_K.sum()
    order_K = np.argsort(-probability_K, kind="stable")[:count]
    return [(classes[index], float(probability_K[index])) for index in order_K]


# ------------------------------------------------------------------------------------------------------------- program
def main() -> None:
    """Classify the images that the command line names."""
    options = parsed()
    try:
        contract = json.loads((options.bundle / "contract.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        complain(f"{options.bundle}: holds no contract.json that can be read ({error}); say --bundle DIR")
    if contract.get("record") != "bundle" or contract.get("schema") != 1:
        complain(f"{options.bundle}: contract.json is not one that this program knows", code=5)
    if options.pixels:
        options.pixels.write_bytes(prepare(decode(options.image[0]), contract["input"]).tobytes())
        return
    answer = open_model(options.bundle, contract, options.threads)
    for path in options.image:
        pixels_HWC = prepare(decode(path), contract["input"])
        found = best(answer(tensor_of(pixels_HWC, contract))[0], contract["classes"], options.top)
        if options.json:
            print(json.dumps({"image": str(path), "top": found}, ensure_ascii=False))
            continue
        print(f"{printable(str(path))}:")
        for name, probability in found:
            print(f"  {probability:.6f}  {printable(name)}")


def parsed() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description="Say what is in a photograph.")
    parser.add_argument("image", nargs="+", type=Path)
    parser.add_argument("--bundle", type=Path, default=Path(__file__).resolve().parent.parent, help="the bundle's folder")
    parser.add_argument("--top", type=int, default=5, help="how many classes to print (5)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads of the runtime (all cores)")
    parser.add_argument("--json", action="store_true", help="print one JSON object an image")
    parser.add_argument("--pixels", type=Path, help="write the first image's prepared pixels (uint8, RGB, HWC) and stop")
    return parser.parse_args()


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def printable(text: str) -> str:
    """Return text that cannot steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def complain(message: str, *, code: int = 2) -> NoReturn:
    """Say what is wrong, and leave with an exit code."""
    print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
