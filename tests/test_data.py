"""Data sets: what is read is what the files say, and bad files are told by name."""

import hashlib

import pytest
import torch

from gradscope import data


def write_cifar(folder, counts=None):
    """Tiny files of the binary layout; returns the raw records by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    written = {}
    for name, count in (counts or {"data_batch_1": 4, "data_batch_2": 3, "test_batch": 5}).items():
        records = torch.randint(0, 256, (count, 3073), generator=generator, dtype=torch.uint8)
        records[:, 0] = torch.randint(0, 10, (count,), generator=generator)
        (folder / f"{name}.bin").write_bytes(bytes(records.flatten().tolist()))
        written[name] = records
    return written


@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
def test_cifar10_reads_labels_and_pixels_in_their_order(tmp_path, below):
    written = write_cifar(tmp_path / below)
    found = data.cifar10(tmp_path)
    raw = torch.cat([written["data_batch_1"], written["data_batch_2"]]).double()
    assert found.train[1].tolist() == raw[:, 0].tolist()
    assert found.test[1].tolist() == written["test_batch"][:, 0].tolist()
    assert found.train[1].dtype == torch.int64
    images = torch.empty(7, 3, 32, 32, dtype=torch.float64)
    for channel in range(3):
        for row in range(32):
            start = 1 + channel * 1024 + row * 32
            images[:, channel, row] = raw[:, start : start + 32]
    mean = images.transpose(0, 1).reshape(3, -1).mean(1).reshape(3, 1, 1)
    deviation = images.transpose(0, 1).reshape(3, -1).std(1, correction=0).reshape(3, 1, 1)
    torch.testing.assert_close(found.train[0], ((images - mean) / deviation).float())
    tested = written["test_batch"][:, 1:].double().reshape(5, 3, 32, 32)
    torch.testing.assert_close(found.test[0], ((tested - mean) / deviation).float())
    assert found.classes == 10


def test_cifar10_limit_takes_the_first_images_across_files(tmp_path):
    written = write_cifar(tmp_path)
    found = data.cifar10(tmp_path, limit=5)
    both = torch.cat([written["data_batch_1"], written["data_batch_2"]])
    assert found.train[1].tolist() == both[:5, 0].tolist()
    assert len(found.test[1]) == 5
    assert len(data.cifar10(tmp_path, limit=2).train[0]) == 2


def test_cifar10_refuses_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is none. Pass the one with data_batch_1.bin"):
        data.cifar10(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("counts", "missing"),
    [({}, "data_batch"), ({"test_batch": 2}, "data_batch"), ({"data_batch_1": 2}, "test_batch.bin")],
)
def test_cifar10_says_which_file_is_missing(tmp_path, counts, missing):
    (tmp_path / "readme.txt").write_text("no images")
    if counts:
        write_cifar(tmp_path, counts)
    with pytest.raises(FileNotFoundError, match=f"There is no {missing}.* binary version"):
        data.cifar10(tmp_path)


@pytest.mark.parametrize(("extra", "told"), [(b"abc", "12295 bytes, 3 left over"), (None, "0 bytes")])
def test_cifar10_names_a_truncated_file(tmp_path, extra, told):
    write_cifar(tmp_path)
    file = tmp_path / "data_batch_1.bin"
    file.write_bytes(b"" if extra is None else file.read_bytes() + extra)
    with pytest.raises(ValueError, match=rf"data_batch_1.bin is not a whole number .* {told}"):
        data.cifar10(tmp_path)


def test_cifar10_names_a_label_that_is_none(tmp_path):
    write_cifar(tmp_path)
    file = tmp_path / "test_batch.bin"
    content = bytearray(file.read_bytes())
    content[2 * 3073] = 11
    file.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"test_batch.bin has labels outside 0 .. 9, the first in record 2: 11"
    ):
        data.cifar10(tmp_path)


def test_cifar10_refuses_constant_channels_and_empty_limits(tmp_path):
    write_cifar(tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073))
    (tmp_path / "data_batch_2.bin").unlink()
    with pytest.raises(ValueError, match="colour channel is constant"):
        data.cifar10(tmp_path)
    with pytest.raises(ValueError, match="limit is the number of images"):
        data.cifar10(tmp_path, limit=0)


def test_digits_are_all_there_standardised_and_stratified():
    from sklearn.datasets import load_digits

    found = data.digits()
    pixels, labels = load_digits(return_X_y=True)
    assert found.train[0].shape[1:] == (1, 8, 8)
    assert found.train[0].dtype == torch.float32
    train = found.train[0].double()
    assert float(train.mean()) == pytest.approx(0, abs=1e-6)
    assert float(train.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert len(train) + len(found.test[0]) == len(pixels) == 1797
    for label in range(10):
        share = float((found.test[1] == label).sum()) / (labels == label).sum()
        assert share == pytest.approx(0.2, abs=0.005)
    # Standardising keeps the order of sizes: undo it by the values 0 .. 16 and compare image by image.
    together = torch.cat([found.train[0], found.test[0]]).flatten(1)
    low, high = together.min(), together.max()
    counted = ((together - low) / (high - low) * 16).round()
    assert sorted(map(tuple, counted.tolist())) == sorted(map(tuple, pixels.tolist()))
    lookup = {tuple(image): label for image, label in zip(pixels.tolist(), labels.tolist(), strict=True)}
    both = torch.cat([found.train[1], found.test[1]]).tolist()
    assert [lookup[tuple(image)] for image in counted.tolist()] == both


def test_digits_depend_on_the_seed_and_on_nothing_else():
    before = torch.get_rng_state()
    assert data.digits().sha256 == data.digits().sha256 != data.digits(seed=1).sha256
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="share between 0 and 1; got 20"):
        data.digits(test_fraction=20)
    with pytest.raises(ValueError, match="without any of the"):
        data.digits(test_fraction=0.001)


def test_a_data_set_is_one_line_and_hashes_its_bytes():
    inputs, labels = torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0])
    first = data.DataSet("tiny", (inputs, labels), (inputs[:1], labels[:1]), classes=2)
    assert repr(first) == f"DataSet('tiny', train 3 and test 1 of [2], 2 classes, sha256 {first.sha256[:12]})"
    digest = hashlib.sha256()
    for tensor in (inputs, labels, inputs[:1], labels[:1]):
        digest.update(f"{tensor.dtype} {list(tensor.shape)};".encode() + tensor.numpy().tobytes())
    assert first.sha256 == digest.hexdigest()
    changed = inputs.clone()
    changed[2, 1] += 1e-6
    assert data.DataSet("tiny", (changed, labels), (inputs[:1], labels[:1]), 2).sha256 != first.sha256
    assert data.hash_of([inputs.T]) == data.hash_of([inputs.T.contiguous()])
    with pytest.raises(AttributeError):
        first.name = "other"


def test_line_is_the_papers_grid():
    grid = data.line(dtype=torch.float64)
    assert grid.shape == (256, 1)
    assert grid[0] == -2
    assert grid[-1] == 2
    torch.testing.assert_close(grid.diff(dim=0), torch.full((255, 1), 4 / 255, dtype=torch.float64))
    assert data.line().dtype == torch.float32


@pytest.mark.parametrize(
    ("points", "low", "high"), [(5, -2, 2), (257, -2, 2), (3, 0, 1), (3, -1, 0), (7, -1, 2), (2, 1, 2)]
)
def test_line_never_meets_zero_and_stays_evenly_inside(points, low, high):
    grid = data.line(points, low, high, dtype=torch.float64).flatten()
    steps = grid.diff()
    assert len(grid) == points
    assert grid.abs().min() > 0.1 * steps[0]
    assert low <= grid[0] < grid[-1] <= high
    torch.testing.assert_close(steps, steps[:1].expand_as(steps))


def test_line_tells_mistakes():
    for arguments in [(1, -2, 2), (5, 2, -2), (5, 0, float("inf"))]:
        with pytest.raises(ValueError, match="points >= 2 and low < high"):
            data.line(*arguments)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_gaussian_has_unit_variance_and_its_correlation(correlation):
    before = torch.get_rng_state()
    drawn = data.gaussian(6, 100_000, seed=0, correlation=correlation, dtype=torch.float64)
    assert torch.equal(torch.get_rng_state(), before)
    expected = torch.full((6, 6), correlation, dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(drawn @ drawn.T / 100_000, expected, rtol=0, atol=0.02)
    assert torch.equal(data.gaussian(6, 100_000, seed=0, correlation=correlation), drawn.float())


def test_gaussian_tells_mistakes():
    with pytest.raises(ValueError, match=r"correlation in \[0, 1\]; got 3, 2, -0.5"):
        data.gaussian(3, 2, seed=0, correlation=-0.5)
    with pytest.raises(ValueError, match="examples >= 1"):
        data.gaussian(0, 2, seed=0)
