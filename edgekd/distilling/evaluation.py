"""Running a model over images as they will be seen in deployment."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from edgekd.core.contracts import ImageSet
from edgekd.core.images import prepare_batch
from edgekd.core.records import InputContract

BATCH = 64


def prepared_batches(images: ImageSet, contract: InputContract, *, device: torch.device) -> Iterator[tuple[range, Tensor]]:
    """Yield (indices, image_BCHW) over all images in order, prepared by the contract."""
    for start in range(0, len(images), BATCH):
        indices = range(start, min(start + BATCH, len(images)))
        yield indices, torch.from_numpy(prepare_batch(images, indices, contract)).to(device)


@torch.no_grad()
def collect(
    answer: Callable[[Tensor], dict[str, Tensor]], images: ImageSet, contract: InputContract, *, device: torch.device
) -> dict[str, Tensor]:
    """Return every image's features (float32, on the CPU), tap by tap, of a callable image_BCHW -> features."""
    chunks: dict[str, list[Tensor]] = {}
    for _, image_BCHW in prepared_batches(images, contract, device=device):
        for tap, value in answer(image_BCHW).items():
            chunks.setdefault(tap, []).append(value.float().cpu())
    return {tap: torch.cat(values) for tap, values in chunks.items()}


def labels_of(images: ImageSet) -> Tensor:
    """Return label_N as int64."""
    return torch.tensor([sample.label for sample in images.samples], dtype=torch.int64)
