"""Bytes in: an exported graph that takes photographs as uint8 BHWC, and scales (and resizes) them by itself.

The normalisation is the student's own and already inside. Dividing by 255 gives exactly the numbers that the preparation
outside gives wherever the runtime divides (onnxruntime); OpenVINO multiplies by the reciprocal, one unit in the last place off.

Resizing on bytes with an antialiased kernel is what Pillow does. Over photographs of 200 to 1600 px brought to 224 px, at most
1 level of 255 differs, in 0.2 % (bilinear) and 0.02 % (bicubic) of the values: onnxruntime's `Resize` with `antialias`, and
OpenVINO's `Interpolate` with its Pillow modes. OpenVINO reads ONNX's `Resize` without the antialiasing (80 % of the values
differ, by up to 114 levels), so that its graph is put together by its own operators.

Axes: B batch, C channels, H height, W width.
"""

from typing import TYPE_CHECKING, Any

from edgekd.core.errors import UsageError
from edgekd.core.records import InputContract, TensorSpec
from edgekd.exporting.interface import FREE_BATCH, INPUT

if TYPE_CHECKING:
    import onnx

HEIGHT, WIDTH = "height", "width"
UNIT = "image_unit"  # float32 BCHW in [0, 1]: what the graph took before
_RESIZE_OPSET = 18  # the first with `antialias`
_KERNELS = {"bilinear": "linear", "bicubic": "cubic"}
_PILLOW_MODES = {"bilinear": "bilinear_pillow", "bicubic": "bicubic_pillow"}
_CUBIC_A = -0.5  # Pillow's


def check(contract: InputContract) -> None:
    """Raise `UsageError` for what no graph does as Pillow does it: other interpolations, a crop larger than the image."""
    if contract.resize_inside and contract.interpolation not in _KERNELS:
        raise UsageError(
            f"{contract.interpolation} is not an interpolation that a graph does like Pillow; those are {', '.join(_KERNELS)}",
            mend="leave out `resize: inside`",
        )
    if contract.resize_inside and contract.crop == "center" and contract.resize_px < max(contract.size_px):
        raise UsageError(
            f"a crop of {contract.size_px} px cannot be cut out of an image whose short side is {contract.resize_px} px"
        )


def with_bytes(model: "onnx.ModelProto", contract: InputContract) -> "onnx.ModelProto":
    """Return an ONNX graph of float32 BCHW with the steps before it that take the contract's uint8 BHWC.

    Raises `UsageError` if the contract resizes inside and the opset or the interpolation cannot.
    """
    import onnx
    from onnx import TensorProto, helper

    check(contract)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    free = batch.dim_param or int(batch.dim_value)
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == INPUT:
                node.input[index] = UNIT
    nodes, constants = _cut_nodes(changed, contract) if contract.resize_inside else ([], [])
    constants.append(helper.make_tensor("image_scale", TensorProto.FLOAT, [], [255.0]))
    nodes += [
        helper.make_node("Transpose", ["image_cut" if contract.resize_inside else INPUT], ["image_planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["image_planes"], ["image_counts"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["image_counts", "image_scale"], [UNIT]),
    ]
    for position, node in enumerate(nodes):
        node.name = f"pixels_{position}"
        graph.node.insert(position, node)
    graph.initializer.extend(constants)
    sides = (HEIGHT, WIDTH) if contract.resize_inside else contract.size_px
    graph.input[0].CopyFrom(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, (free, *sides, 3)))
    onnx.checker.check_model(changed, full_check=True)
    return changed


def _cut_nodes(model: "onnx.ModelProto", contract: InputContract) -> "tuple[list[onnx.NodeProto], list[onnx.TensorProto]]":
    """Return the steps from `image` to `image_cut` (uint8 BHWC of the model's size), and their constants."""
    from onnx import TensorProto, helper

    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < _RESIZE_OPSET:
        raise UsageError(f"`resize: inside` needs opset {_RESIZE_OPSET}, not {opset}", mend=f"set `opset: {_RESIZE_OPSET}`")
    size = list(contract.size_px)
    values: dict[str, list[int]] = {"size": size, "axes": [1, 2], "keep": [0, *size, 3]}
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = []
    if contract.crop == "squash":
        resized_to, cut = "size", "resized"
    else:
        values |= {"short": [contract.resize_px], "from": [1], "to": [3]}
        steps += [
            ("Shape", [INPUT], "shape", {}),
            ("Slice", ["shape", "from", "to"], "sides", {}),
            ("ReduceMin", ["sides"], "shortest", {"keepdims": 1}),
            # Both sides times resize_px over the shorter one: resize_px itself, and int(resize_px * long / short).
            ("Mul", ["sides", "short"], "products", {}),
            ("Div", ["products", "shortest"], "target", {}),
            ("Sub", ["target", "size"], "excess", {}),
            ("Cast", ["excess"], "excess_float", {"to": TensorProto.FLOAT}),
            ("Mul", ["excess_float", "half"], "middle", {}),
            ("Round", ["middle"], "rounded", {}),  # halves to even, as Python's
            ("Cast", ["rounded"], "start", {"to": TensorProto.INT64}),
            ("Add", ["start", "size"], "end", {}),
        ]
        resized_to, cut = "target", "sliced"
    kernel = {"mode": _KERNELS[contract.interpolation], "antialias": 1, "axes": [1, 2]}
    kernel |= {"cubic_coeff_a": _CUBIC_A, "exclude_outside": 1, "coordinate_transformation_mode": "half_pixel"}
    steps.append(("Resize", [INPUT, "", "", resized_to], "resized", kernel))
    if cut == "sliced":
        steps.append(("Slice", ["resized", "start", "end", "axes"], "sliced", {}))
    steps.append(("Reshape", [cut, "keep"], "cut", {}))  # tells the runtime the sides, which it cannot know otherwise
    own = {INPUT: INPUT, "": ""}
    nodes = [
        helper.make_node(op, [own.get(name, f"image_{name}") for name in inputs], [f"image_{output}"], **attributes)
        for op, inputs, output, attributes in steps
    ]
    used = {name for node in nodes for name in node.input}
    constants = [
        helper.make_tensor(f"image_{name}", TensorProto.INT64, [len(value)], value)
        for name, value in values.items()
        if f"image_{name}" in used
    ]
    half = [helper.make_tensor("image_half", TensorProto.FLOAT, [], [0.5])] if "image_half" in used else []
    return nodes, [*constants, *half]


def resize_in_openvino(model: Any, contract: InputContract) -> None:
    """Put a Pillow-like resize and crop before an OpenVINO model that takes uint8 BHWC of the contract's size."""
    import numpy as np
    from openvino import opset13 as op  # type: ignore[import-untyped]

    check(contract)
    old = model.input(0).get_node()
    batch = old.get_partial_shape()[0]
    photo = op.parameter([batch.get_length() if batch.is_static else -1, -1, -1, 3], np.uint8, name=INPUT)
    photo.output(0).get_tensor().set_names({INPUT})
    size = np.array(contract.size_px, np.int64)
    if contract.crop == "squash":
        target = op.constant(size)
    else:
        sides = op.gather(op.shape_of(photo), op.constant(np.array([1, 2], np.int64)), op.constant(np.int64(0)))
        shortest = op.reduce_min(sides, op.constant(np.array([0], np.int64)), keep_dims=True)
        target = op.divide(op.multiply(sides, op.constant(np.array([contract.resize_px], np.int64))), shortest)
    mode = _PILLOW_MODES[contract.interpolation]
    axes = op.constant(np.array([1, 2], np.int64))
    cut = op.interpolate(photo, target, mode, "sizes", pads_begin=[0] * 4, pads_end=[0] * 4, cube_coeff=_CUBIC_A, axes=axes)
    if contract.crop != "squash":
        excess = op.convert(op.subtract(target, op.constant(size)), "f32")
        start = op.convert(op.round(op.divide(excess, op.constant(np.float32(2))), "half_to_even"), "i64")
        cut = op.slice(cut, start, op.add(start, op.constant(size)), op.constant(np.array([1, 1], np.int64)), axes)
    cut = op.reshape(cut, op.constant(np.array([0, *contract.size_px, 3], np.int64)), special_zero=True)
    old.output(0).get_tensor().set_names({"image_cut"})
    old.output(0).replace(cut.output(0))
    model.replace_parameter(0, photo)
    model.validate_nodes_and_infer_types()


def spec_of_photographs(image: TensorSpec) -> TensorSpec:
    """Return an input's description with its free sides named as in the ONNX graph."""
    batch, height, width, channels = image.shape
    named = tuple(name if side == FREE_BATCH else side for side, name in ((height, HEIGHT), (width, WIDTH)))
    return image.model_copy(update={"shape": (batch, *named, channels)})
