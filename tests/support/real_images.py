"""Some of the CIFAR-10 images, as a folder of one's own photographs."""

import pathlib
import tarfile


def write_some(real_data_dir: pathlib.Path, folder: pathlib.Path, *, train_per_class: int, test_per_class: int) -> None:
    """Writes the first images of each class below `folder`, as `train/CLASS/NAME` and `test/CLASS/NAME`."""
    counts = {"train": train_per_class, "test": test_per_class}
    with tarfile.open(real_data_dir / "cifar10_images.tar.gz") as archive:
        for member in archive:
            path = pathlib.PurePosixPath(member.name)  # train/airplane/0000.jpg
            if member.isfile() and int(path.stem) < counts[path.parts[0]]:
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.extractfile(member).read())
