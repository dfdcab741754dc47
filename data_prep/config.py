"""Settings of `build_tfrecords` and `verify_tfrecords`."""

import dataclasses

from data_prep import sources
from data_prep.source_parts.archive_limits import ArchiveLimits, check_encoding
from tl_distributed.data.decode_settings import DecodeSettings
from tl_distributed.data.fit_rules import DEFAULT_FIT, FITS
from tl_distributed.data.storage import LARGEST_PIXELS, MOST_SHARDS, SHARD_BYTES, STORAGES, Storage
from tl_distributed.errors import UserError
from tl_distributed.settings.flags import borrowed, setting

_EXAMPLES = {"input": "PATH", "tfds_name": "NAME, e.g. --tfds_name=oxford_flowers102"}  # in messages


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """One build: where the images come from, how they are split, where the shards go."""

    source: str = setting("cifar10", "Where the images come from.", topic="Source", choices=sources.NAMES)
    input: str = setting(
        "",
        "The images on disk: for image_folder a folder, .tar, .tar.gz or .zip of train/<class>/* with optional val/ "
        "and test/ in any usual spelling (or of <class>/* alone, which gives no test split); for cifar10_archive the "
        "official binary or python archive or its unpacked folder; for cifar10 and tfds the TFDS data folder (empty: "
        "TFDS's own).",
        topic="Source",
    )
    tfds_name: str = setting("", "Name of a TFDS image classification set, for --source=tfds.", topic="Source")
    synthetic_task: str = setting(
        "source",
        "Which synthetic task to draw: the one to pre-train on, or the small one to transfer to.",
        topic="Source",
        choices=("source", "target"),
    )
    images_per_class: int = setting(
        0, "Training images a class that --source=synthetic draws; 0: the task's own.", topic="Source", minimum=0
    )
    skip_unreadable: bool = setting(
        False,
        "Leave out images that cannot be decoded and count them, instead of stopping at the first.",
        topic="Source",
    )
    max_archive_members: int = borrowed(ArchiveLimits, "max_archive_members", topic="Source")
    max_archive_gib: float = borrowed(ArchiveLimits, "max_archive_gib", topic="Source")
    archive_encoding: str = borrowed(ArchiveLimits, "archive_encoding", topic="Source")
    train_dir: str = setting(
        "",
        "Folder of the training images inside --input, with a folder a class, where its name does not tell; no other "
        "folder is then guessed.",
        topic="Folders and labels",
    )
    val_dir: str = setting("", "Likewise of the validation images; needs --train_dir.", topic="Folders and labels")
    test_dir: str = setting("", "Likewise of the test images; needs --train_dir.", topic="Folders and labels")
    no_split_folders: bool = setting(
        False, "Take every folder for a class, also one that is called train or test.", topic="Folders and labels"
    )
    labels_csv: str = setting(
        "",
        "Table of labels: columns file or id (a path in --input, or the bare name with or without ending), label, and "
        "optionally split; separated by comma, semicolon or tab.",
        topic="Folders and labels",
    )
    multi_label: bool = setting(
        False,
        "--labels_csv: a picture has any number of labels, separated by | or in lines of their own; one whose label is "
        "empty has none of them.",
        topic="Folders and labels",
    )
    class_names: str = setting(
        "",
        "Names of the classes by folder or label, e.g. of WordNet ids: JSON, or lines of two columns (comma, "
        "semicolon, tab or the first space).",
        topic="Folders and labels",
    )
    group_csv: str = setting(
        "",
        "Table of columns file and group (one patient, burst or video): images of a group never lie in two splits.",
        topic="Folders and labels",
    )
    image_size: int = setting(
        32,
        "Height and width in pixels to which images are brought: both where pixels are stored, else the shorter side.",
        topic="Images",
        minimum=1,
        maximum=4096,
    )
    fit: str | None = setting(
        None,
        "What becomes of an image that is not square: squash it, crop its largest centred square, or pad it with "
        "black. Applied here where pixels are stored, else whenever an image is read. Models that are trained on the "
        f"data set do the same. [default: {DEFAULT_FIT}]",
        topic="Images",
        choices=FITS,
    )
    storage: str = setting(
        "auto",
        "pixels: raw and square. jpeg: whole, with the shorter side at most --image_size (quality 95, 4:4:4). "
        "original: the file as it is where TensorFlow decodes it to the same upright picture, else as jpeg. "
        f"auto: pixels up to an --image_size of {LARGEST_PIXELS}, jpeg above.",
        topic="Images",
        choices=("auto", *STORAGES),
    )
    crop_to_aspect_ratio: bool = setting(False, "The same as --fit=crop.", topic="Images")
    max_megapixels: float = borrowed(DecodeSettings, "max_megapixels", topic="Images")
    val_fraction: float = setting(
        0.2,
        "Share of each class of train that becomes the validation split; not used where the source has its own.",
        topic="Splits",
        minimum=0,
        maximum=0.9,
    )
    test_fraction: float = setting(
        0.0,
        "Share of each class of train that becomes the test split, before validation is taken; not used where the "
        "source has its own.",
        topic="Splits",
        minimum=0,
        maximum=0.9,
    )
    limit_per_class: int = setting(
        0,
        "Keep this many images of each class of train, chosen by --seed before the validation share is taken from "
        "them; test and the source's own validation stay whole. 0: all.",
        topic="Splits",
        minimum=0,
    )
    seed: int = setting(
        0,
        "Decides the validation share, the order of the records, and the images that synthetic draws.",
        topic="Splits",
        minimum=0,
    )
    output_dir: str = setting(
        "data/cifar10", "Folder of the finished data set; appears when all is done.", topic="Output"
    )
    num_shards: int = setting(
        0,
        f"Files a split; 0: as many as make about {SHARD_BYTES // 10**6} MB each, at most {MOST_SHARDS:,}.",
        topic="Output",
        minimum=0,
        maximum=99999,
    )
    num_writers: int = setting(
        0,
        "Threads that decode and write; 0: one a core. The files are the same for any number.",
        topic="Output",
        minimum=0,
    )
    overwrite: bool = setting(
        False, "Replace a finished data set in --output_dir, once the new one is complete.", topic="Output"
    )
    engine: str = setting(
        "local",
        "local: threads of this process. beam: a pipeline of Apache Beam (pip install .[beam]), on the machines that "
        "--beam_options names, which must reach --input and --output_dir. The files are the same.",
        topic="Engine",
        choices=("local", "beam"),
    )
    beam_options: str = setting(
        "",
        "Options of Beam's pipeline in one string, e.g. '--runner=DirectRunner --direct_num_workers=4 "
        "--direct_running_mode=multi_processing'.",
        topic="Engine",
    )

    def __post_init__(self) -> None:
        self._check_source()
        check_encoding(self.archive_encoding)
        if not self.output_dir:
            raise UserError("--output_dir must name a folder")
        if self.crop_to_aspect_ratio and self.fit not in (None, "crop"):
            raise UserError(f"--crop_to_aspect_ratio is --fit=crop, not --fit={self.fit}; drop one of them")
        if self.beam_options and self.engine != "beam":
            raise UserError("--beam_options is used by --engine=beam alone; add it")
        if self.multi_label and not self.labels_csv:
            raise UserError("--multi_label is of --labels_csv; name the table of labels")
        if self.multi_label and self.limit_per_class:
            raise UserError(
                f"--limit_per_class={self.limit_per_class}: with --multi_label an image is of several classes; drop it"
            )
        if self.seed >= 2**63:
            raise UserError(f"--seed={self.seed}: takes at most 2**63 - 1")

    def _check_source(self) -> None:
        """Raises `UserError` for a flag that the source would ignore in silence, or that it needs."""
        modules = {name: sources.source_module(name) for name in sources.NAMES}
        own = modules[self.source]
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for flag in sorted({flag for module in modules.values() for flag in module.TAKES} - set(own.TAKES)):
            if getattr(self, flag) != defaults[flag]:
                takers = ", ".join(name for name, module in modules.items() if flag in module.TAKES)
                raise UserError(f"--{flag} is not used by --source={self.source}, only by {takers}")
        for flag in own.NEEDS:
            if not getattr(self, flag):
                raise UserError(f"--source={self.source} needs --{flag}={_EXAMPLES[flag]}")

    @property
    def archive_limits(self) -> ArchiveLimits:
        """Of a zip or tar that `input` names."""
        return ArchiveLimits(self.max_archive_members, self.max_archive_gib, self.archive_encoding)

    @property
    def fitting_rule(self) -> str:
        """How images that are not square become so: what the flags say, or the default."""
        return "crop" if self.crop_to_aspect_ratio else self.fit or DEFAULT_FIT

    @property
    def storage_rule(self) -> Storage:
        """How pictures are stored, with auto decided."""
        if self.storage == "auto":
            return "pixels" if self.image_size <= LARGEST_PIXELS else "jpeg"
        return self.storage

    @property
    def num_threads(self) -> int:
        """Threads that decode and write: `num_writers`, or one a core that this process may use."""
        from tl_distributed.data.machine import usable_cores

        return self.num_writers or usable_cores()


@dataclasses.dataclass(frozen=True)
class VerifyConfig:
    """One verification."""

    data_dir: str = setting("data/cifar10", "Folder of a finished data set.", topic="Input")
