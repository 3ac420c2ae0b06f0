"""What networks are looked at with: images from a library or from this disk, and synthetic inputs."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

CIFAR10_RECORD = 1 + 3 * 32 * 32


@dataclass(frozen=True, eq=False, repr=False)
class DataSet:
    """Inputs and labels to train and to test with.

    Attributes:
        name: What it is called in tables.
        train: Inputs [N, ...] and labels [N], int64 in 0 .. classes - 1.
        test: The same for the examples that training does not see.
        classes: How many different labels there are.
        sha256: Hash of the four tensors' bytes, types and shapes, in hexadecimal; computed if left out.
    """

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int
    sha256: str = ""

    def __post_init__(self) -> None:
        if not self.sha256:
            object.__setattr__(self, "sha256", hash_of((*self.train, *self.test)))

    def __repr__(self) -> str:
        train, test = self.train[0], self.test[0]
        return (
            f"DataSet({self.name!r}, train {len(train)} and test {len(test)} of {list(train.shape[1:])}, "
            f"{self.classes} classes, sha256 {self.sha256[:12]})"
        )


def hash_of(tensors: Iterable[Tensor]) -> str:
    """SHA-256 over the tensors' types, shapes and bytes, in their order; hexadecimal."""
    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{plain.dtype} {list(plain.shape)};".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digits(*, test_fraction: float = 0.2, seed: int = 0) -> DataSet:
    """The 1797 handwritten digits that scikit-learn carries: 8x8 pixels, ten classes.

    Args:
        test_fraction: Share of the examples kept for testing, between 0 and 1; of every class alike.
        seed: Decides which.

    Returns:
        Images float32 [N, 1, 8, 8], less the mean and divided by the standard deviation of all training
        pixels.

    Raises:
        ValueError: `test_fraction` not between 0 and 1, or such that a class is missing on one side.

    Source:
        Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI repository, its test part.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction is a share between 0 and 1; got {test_fraction}.")
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(targets).to(torch.int64)
    generator = torch.Generator().manual_seed(seed)
    kept, tested = [], []
    for label in range(10):
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        count = round(test_fraction * len(members))
        if count in (0, len(members)):
            raise ValueError(
                f"test_fraction={test_fraction} leaves one side without any of the {len(members)} images "
                f"of digit {label}. Take a share nearer to 0.2."
            )
        tested.append(members[:count])
        kept.append(members[count:])
    train, test = torch.cat(kept).sort().values, torch.cat(tested).sort().values
    mean, deviation = images[train].mean(), images[train].std(correction=0)
    images = ((images - mean) / deviation).float()
    return DataSet("digits", (images[train], labels[train]), (images[test], labels[test]), classes=10)


def cifar10(root: str | Path, *, limit: int | None = None) -> DataSet:
    """CIFAR-10 from local files of the binary layout; nothing is ever downloaded.

    Args:
        root: The folder with `data_batch_*.bin` and `test_batch.bin`, or the one above, which holds it as
            `cifar-10-batches-bin`. A record is 3073 bytes: the label, then 3 x 32 x 32 pixels.
        limit: At most this many training and this many test images, the first ones; None for all.

    Returns:
        Images float32 [N, 3, 32, 32], each channel less its mean and divided by its standard deviation
        over the training images that were read.

    Raises:
        FileNotFoundError: No such folder, or no training or test file in it.
        ValueError: A file that is not a whole number of records or has labels outside 0 .. 9; `limit`
            below 1; a channel that is constant.

    Source:
        Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is the number of images to read, at least 1, or None for all; got {limit}.")
    folder = Path(root)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"cifar10 reads a folder, and {folder} is none. Pass the one with data_batch_1.bin."
        )
    if (folder / "cifar-10-batches-bin").is_dir():
        folder = folder / "cifar-10-batches-bin"
    files = sorted(folder.glob("data_batch_*.bin"))
    missing = "data_batch_*.bin" if not files else "test_batch.bin"
    if not files or not (folder / "test_batch.bin").is_file():
        raise FileNotFoundError(
            f"There is no {missing} in {folder}. cifar10 reads the binary version of CIFAR-10 "
            "(cifar-10-binary.tar.gz, unpacked), not the pickled one."
        )
    pixels, labels = _records(files, limit)
    test_pixels, test_labels = _records([folder / "test_batch.bin"], limit)
    counts = torch.stack(
        [torch.bincount(pixels[:, channel].flatten(), minlength=256) for channel in range(3)]
    )
    # From counts of the 256 values: exact, and without a copy of all pixels in float64.
    shares = counts.double() / counts.sum(dim=1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64)
    mean = shares @ values
    deviation = (shares @ values.square() - mean.square()).sqrt()
    if not bool((deviation > 0).all()):
        raise ValueError(
            f"A colour channel is constant over all training images in {folder}: they cannot be scaled."
        )

    def standardised(raw: Tensor) -> Tensor:
        return raw.float().sub_(mean.float().reshape(3, 1, 1)).div_(deviation.float().reshape(3, 1, 1))

    train = standardised(pixels), labels
    return DataSet("cifar10", train, (standardised(test_pixels), test_labels), classes=10)


def _records(files: list[Path], limit: int | None) -> tuple[Tensor, Tensor]:
    """Pixels uint8 [N, 3, 32, 32] and labels int64 [N] of the first `limit` records of the files."""
    found: list[Tensor] = []
    for file in files:
        wanted = None if limit is None else limit - sum(map(len, found))
        if wanted == 0:
            break
        size = file.stat().st_size
        if size == 0 or size % CIFAR10_RECORD:
            raise ValueError(
                f"{file} is not a whole number of CIFAR-10 records of {CIFAR10_RECORD} bytes: it has {size} "
                f"bytes, {size % CIFAR10_RECORD} left over. Copy the file again."
            )
        with file.open("rb") as stream:
            content = bytearray(stream.read(-1 if wanted is None else wanted * CIFAR10_RECORD))
        records = torch.frombuffer(content, dtype=torch.uint8).reshape(-1, CIFAR10_RECORD)
        wrong = (records[:, 0] > 9).nonzero().flatten()
        if len(wrong):
            raise ValueError(
                f"{file} has labels outside 0 .. 9, the first in record {int(wrong[0])}: "
                f"{int(records[wrong[0], 0])}. It is not CIFAR-10 (CIFAR-100 has two label bytes)."
            )
        found.append(records)
    records = torch.cat(found)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].to(torch.int64)


def line(
    points: int = 256, low: float = -2.0, high: float = 2.0, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Evenly spaced numbers from `low` to `high`, none of them 0.

    At 0 a rectifier network without biases has its kink, where its derivative is a convention. Where the
    grid with both ends would meet 0, the end `high` is left out and the spacing a little smaller (for
    `low = 0`, the end `low`).

    Returns:
        [points, 1] of `dtype`, increasing. 256 points on [-2, 2] are those of Balduzzi et al. (2017), Fig. 1.

    Raises:
        ValueError: Fewer than 2 points, or `low` not below `high`, or one of them not finite.
    """
    if points < 2 or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"line needs points >= 2 and low < high, both finite; got {points}, {low}, {high}.")
    tolerance = 1e-9 * (high - low) / points
    grid = torch.linspace(low, high, points, dtype=torch.float64)
    if bool((grid.abs() < tolerance).any()):
        with_one_more = torch.linspace(low, high, points + 1, dtype=torch.float64)
        grid = with_one_more[1:] if low == 0 else with_one_more[:-1]
    return grid.unsqueeze(1).to(dtype)


def gaussian(
    examples: int,
    dimension: int,
    *,
    seed: int,
    correlation: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal inputs, any two of which have the same correlation.

    x_i = sqrt(correlation) c + sqrt(1 - correlation) e_i, with c and all e_i drawn from N(0, I).

    Args:
        examples: N.
        dimension: D.
        seed: Fixes the draw; it is the same for every `dtype` up to rounding.
        correlation: Expected product of the same coordinate of two examples, in [0, 1].
        dtype: Of the result.

    Returns:
        [N, D]; every entry has mean 0 and variance 1.

    Raises:
        ValueError: A size below 1, or a correlation outside [0, 1].
    """
    if examples < 1 or dimension < 1 or not 0 <= correlation <= 1:
        raise ValueError(
            "gaussian needs examples >= 1, dimension >= 1 and a correlation in [0, 1]; "
            f"got {examples}, {dimension}, {correlation}."
        )
    drawn = torch.randn(
        examples + 1, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    inputs = math.sqrt(correlation) * drawn[:1] + math.sqrt(1 - correlation) * drawn[1:]
    return inputs.to(dtype)
