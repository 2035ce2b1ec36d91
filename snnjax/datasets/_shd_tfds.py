r"""SHD and SSC as TensorFlow Datasets (TFDS) data sets, without TensorFlow:

    download_shd     zenkelab.org -> FOLDER/{shd,ssc}_SPLIT.h5; checks the archives' MD5
    prepare_shd      these files, or your own -> TFDS cache DATA_DIR/NAME/VERSION/*.array_record
    load_shd_tfds    the TFDS cache -> `EventDataset`

An example has the fields

    times     (events,) float32 or 64, s    label      integer, a ClassLabel
    units     (events,) int32               speaker    int32; absent if the files have none

Examples have the order of the file. metadata.json in the same folder has what TFDS has no field
for: the number of units, the duration of each split (s), the names of the classes, and the SHA-256
of the files, so that two sources are never confused.

Both arrays are `Tensor(shape=(None,), encoding="bytes")`. TFDS writes and reads these with numpy
alone and keeps their dtype and length (also 0). They take 8 bytes per event, or 12 with 64-bit
times, before array_record compresses them. Without this encoding, every unit would be a 64-bit
integer in a protocol buffer. array_record is the format that TFDS reads without TensorFlow. The
.h5 files are read by `read_shd`, which does not trust them.

SHD are the Spiking Heidelberg Digits (20 classes; training and test set), SSC the Spiking Speech
Commands (35 classes; training, validation and test set).

Source: Cramer, Stradmann, Schemmel & Zenke (2020), doi 10.1109/TNNLS.2020.3044364. The download is
tested with a local server, not with the real one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from snnjax import _check
from snnjax._files import PathLike
from snnjax.datasets import _fetch
from snnjax.datasets._events import EventDataset
from snnjax.datasets._shd import Split, read_shd

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

URL = "https://zenkelab.org/datasets/"
NAME, VERSION = "spiking_heidelberg_digits", "1.0.0"
Collection = Literal["shd", "ssc"]
"""Name of a data set in the names of its files: `shd_train.h5`."""


class Source(NamedTuple):
    """A data set of zenkelab.org.

    Attributes:
        name: Name in the cache of TFDS.
        md5: MD5 of the archive of each split.
    """

    name: str
    md5: Mapping[str, str]


SOURCES: Mapping[Collection, Source] = {
    "shd": Source(
        NAME,
        {
            "train": "f3252aeb598ac776c1b526422d90eecb",
            "test": "1503a5064faa34311c398fb0a1ed0a6f",
        },
    ),
    "ssc": Source(
        "spiking_speech_commands",
        {
            "train": "d102be95e7144fcc0553d1f45ba94170",
            "valid": "b4eee3516a4a90dd0c71a6ac23a8ae43",
            "test": "a35ff1e9cffdd02a20eb850c17c37748",
        },
    ),
}
_INFO = "dataset_info.json"  # TFDS writes it last
MAX_BYTES = 4 * 2**30
"""Size limit of an archive, and of the file in it."""


def download_shd(
    folder: PathLike,
    *,
    collection: Collection = "shd",
    url: str = URL,
    md5: Mapping[str, str] | None = None,
    max_bytes: int = MAX_BYTES,
    timeout: float = 60.0,
) -> dict[str, Path]:
    """Download the files of SHD or SSC, for `snnjax train shd --data`, `ssc`, and `load_shd`.

    The archives, for example `shd_train.h5.zip`, are kept. Complete files are not downloaded again.
    A file in `folder` is complete or absent.

    Args:
        folder: Target folder, created if necessary.
        collection: `"shd"` or `"ssc"`.
        url: Address of the folder with the archives, https, http or file.
        md5: MD5 of the archive of each split. None: those of the published archives.
        max_bytes: Larger archives and files are refused.
        timeout: Time limit for the connection and for each block, s.

    Returns:
        The file of each split.

    Raises:
        OSError: The server cannot be reached or stops before the end.
        ValueError: An archive is damaged or not the expected one. The message names it.
    """
    _check.one_of("collection", collection, get_args(Collection))
    paths = {}
    for split, expected in (SOURCES[collection].md5 if md5 is None else md5).items():
        _check.one_of("md5's split", split, get_args(Split))
        path = Path(folder, f"{collection}_{split}.h5")
        archive, address = Path(f"{path}.zip"), f"{url.rstrip('/')}/{path.name}.zip"
        _fetch.fetch(address, archive, md5=expected, max_bytes=max_bytes, timeout=timeout)
        paths[split] = _fetch.unpack(archive, path.name, path, max_bytes=max_bytes)
    return paths


def prepare_shd(
    data_dir: PathLike | None = None,
    *,
    files: Mapping[str, PathLike] | None = None,
    collection: Collection = "shd",
    name: str | None = None,
    num_units: int = 700,
    url: str = URL,
    md5: Mapping[str, str] | None = None,
) -> Path:
    """Write the data set to the TFDS cache unless it is there.

    Args:
        data_dir: The cache. None: that of TFDS, $TFDS_DATA_DIR or ~/tensorflow_datasets.
        files: The .h5 file of each split, in the SHD layout. None: download the data to
            `data_dir`/downloads/`name`.
        collection: As in `download_shd`.
        name: Name of the data set in the cache. None: that of the collection. Use another name for
            other data.
        num_units: Number of input channels.
        url: As in `download_shd`.
        md5: As in `download_shd`.

    Returns:
        The folder `data_dir`/`name`/`VERSION`, with all splits. On an error it does not exist.

    Raises:
        ValueError: The folder is damaged or was made from other files, a file has another layout,
            or the splits do not match each other.
        FileNotFoundError: A file does not exist.
        OSError: A file cannot be downloaded.

    >>> import tempfile, h5py
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with h5py.File(f"{folder}/three.h5", "w") as f:
    ...         for key, dtype in (("times", "f2"), ("units", "u2")):
    ...             _ = f.create_dataset(f"spikes/{key}", (3,), h5py.vlen_dtype(dtype))
    ...         f["spikes/times"][0], f["spikes/units"][0] = [0.25, 0.5], [3, 699]
    ...         f["labels"], f["extra/speaker"] = [0, 1, 0], [4, 4, 9]
    ...     _ = prepare_shd(folder, files={"train": f"{folder}/three.h5"}, name="three")
    ...     data = load_shd_tfds("train", folder, name="three")
    >>> data
    EventDataset(3 samples, 2 events, 700 units, 2 classes, 0.501 s)

    A validation set of speakers that training does not hear:

    >>> train, valid = data.split_groups(held_out=9)
    >>> train.groups, valid.groups
    (array([4, 4], dtype=int32), array([9], dtype=int32))
    """
    _check.one_of("collection", collection, get_args(Collection))
    name = SOURCES[collection].name if name is None else name
    md5 = SOURCES[collection].md5 if md5 is None else md5
    folder = _folder(data_dir, name)
    origin = dict(md5) if files is None else None
    if (folder / _INFO).is_file():
        key, wanted = ("md5", dict(md5)) if files is None else ("sha256", _hashes(files))
        _check_same(folder, key, wanted, num_units)
        return folder
    import tensorflow_datasets as tfds

    cache = folder.parents[1]
    if files is None:
        files = download_shd(cache / "downloads" / name, collection=collection, url=url, md5=md5)
    builder = shd_builder(files, cache, name=name, num_units=num_units, md5=origin)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    # TFDS reports on standard output, which belongs to the program
    with contextlib.redirect_stdout(sys.stderr):
        builder.download_and_prepare(download_config=config)
    return folder


def shd_builder(
    files: Mapping[str, PathLike],
    data_dir: PathLike | None = None,
    *,
    name: str = NAME,
    num_units: int = 700,
    md5: Mapping[str, str] | None = None,
) -> tfds.core.GeneratorBasedBuilder:
    """Return a `tfds.core.GeneratorBasedBuilder` for the .h5 files.

    `prepare_shd` calls this and `download_and_prepare`. The builder is made for its files, because
    TFDS needs the names of the classes before it prepares anything. It is not registered by name.

    Args:
        files: The .h5 file of each split.
        data_dir: As in `prepare_shd`.
        name: As in `prepare_shd`.
        num_units: As in `prepare_shd`.
        md5: MD5 of the archives of the files, for the metadata. None: the files are not downloads.

    Raises:
        ValueError: As in `prepare_shd`.
        FileNotFoundError: As in `prepare_shd`.
    """
    import tensorflow_datasets as tfds

    hashes = _hashes(files)
    data = {split: read_shd(path, num_units=num_units) for split, path in files.items()}
    class_names, *others = {d.class_names: None for d in data.values()}
    speakers = [d.groups is not None for d in data.values()]
    if others or len(set(speakers)) > 1:
        got = f"{[class_names, *others]}, speakers {speakers} in {[str(p) for p in files.values()]}"
        raise ValueError(f"files must have the same class names, and all or no speakers; got {got}")
    num_classes = max(d.num_classes for d in data.values())
    time_dtype = np.result_type(*(d.times for d in data.values()))
    metadata = {
        "num_units": num_units,
        "num_classes": num_classes,
        "class_names": class_names,
        "duration": {split: d.duration for split, d in data.items()},
        "sha256": hashes,
        "md5": None if md5 is None else dict(md5),
    }
    # TFDS stores one name per line, stripped and unique; it takes names or their number
    lines = [name.strip() for name in "\n".join(class_names or ()).splitlines()]
    whole = tuple(dict.fromkeys(filter(None, lines))) == class_names
    label: dict[str, Any] = {"names": class_names} if whole else {"num_classes": num_classes}
    ragged: dict[str, Any] = {"shape": (None,), "encoding": "bytes"}
    features = {
        "times": tfds.features.Tensor(dtype=time_dtype, doc="s", **ragged),
        "units": tfds.features.Tensor(dtype=np.int32, **ragged),
        "label": tfds.features.ClassLabel(**label),
    }
    if all(speakers):
        features["speaker"] = tfds.features.Scalar(dtype=np.int32)
    homepage, citation = (None, None) if md5 is None else (URL, "doi 10.1109/TNNLS.2020.3044364")
    builder_name = _check_name(name)

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Examples of the files, in their order."""

        name = builder_name
        VERSION = tfds.core.Version(VERSION)
        # TFDS downloads nothing here; to search for checksums, it needs an optional package
        url_infos = None

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description="Spike events in the layout of the Spiking Heidelberg Digits.",
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
                metadata=tfds.core.MetadataDict(metadata),
                homepage=homepage,
                citation=citation,
            )

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
            return {split: self._generate_examples(d) for split, d in data.items()}

        def _generate_examples(self, d: EventDataset) -> Iterator[tuple[int, dict[str, Any]]]:
            for s, label in enumerate(d.labels.tolist()):
                own = slice(d.offsets[s], d.offsets[s + 1])
                times, units = d.times[own].astype(time_dtype), d.units[own]
                speaker = {} if d.groups is None else {"speaker": d.groups[s]}
                yield s, {"times": times, "units": units, "label": label, **speaker}

    cache = None if data_dir is None else Path(data_dir).expanduser()
    return Builder(data_dir=cache, file_format="array_record")


def load_shd_tfds(
    split: str, data_dir: PathLike | None = None, *, name: str = NAME, duration: float | None = None
) -> EventDataset:
    """Read one split that `prepare_shd` has written, without TensorFlow.

    The result equals that of `read_shd` for the file of the split. See `prepare_shd` for an
    example.

    Args:
        split: `"train"` or `"test"`, or another split that was prepared.
        data_dir: As in `prepare_shd`.
        name: As in `prepare_shd`.
        duration: Length of a trial, s. None: as in `read_shd`.

    Raises:
        FileNotFoundError: No data set of this name is prepared there.
        ValueError: There is no such split, or the files are damaged.
    """
    if duration is not None:
        _check.number("duration", duration, above=0, unit="s")
    folder = _folder(data_dir, name)
    if not (folder / _INFO).is_file():
        raise FileNotFoundError(f"{folder}: no prepared data set; make it with prepare_shd")
    import tensorflow_datasets as tfds

    metadata = _metadata(folder)
    try:
        builder: Any = tfds.builder_from_directory(folder)
        _check.one_of("split", split, sorted(builder.info.splits))
        examples = list(builder.as_data_source(split))
        parts = {key: [e[key] for e in examples] for key in examples[0]}
        data = EventDataset.from_lists(
            parts["times"],
            parts["units"],
            np.array(parts["label"]),
            num_units=metadata["num_units"],
            num_classes=metadata["num_classes"],
            duration=metadata["duration"][split],
            groups=np.array(parts["speaker"]) if "speaker" in parts else None,
            class_names=metadata["class_names"],
        )
    except (ValueError, TypeError, LookupError, OSError, RuntimeError) as error:
        raise ValueError(f"{folder}: {error}") from error
    # a shorter trial cuts on purpose
    return data if duration is None else data._with(duration=float(duration))


def _folder(data_dir: PathLike | None, name: str) -> Path:
    if data_dir is None:
        from tensorflow_datasets.core import constants

        data_dir = constants.DATA_DIR
    return Path(data_dir).expanduser() / _check_name(name) / VERSION


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        needed = "lower-case letters, digits and _, beginning with a letter"
        raise ValueError(f"name must be {needed}, got {name!r}")
    return name


def _check_same(folder: Path, key: str, wanted: Mapping[str, str], num_units: int) -> None:
    """Raise unless the prepared data set was made from these files."""
    metadata = _metadata(folder)
    found, units = metadata.get(key) or {}, metadata.get("num_units")
    other = f"of {units} units, not num_units = {num_units}" if units != num_units else ""
    if not wanted.items() <= found.items():
        other = f"made of other files ({key} {found}, not {wanted})"
    if other:
        advice = "name another data_dir or name, or remove the folder"
        raise ValueError(f"{folder}: contains a data set {other}; {advice}")


def _metadata(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "metadata.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        advice = "remove the folder and prepare it again"
        raise ValueError(f"{folder}: metadata.json is damaged ({error}); {advice}") from error


def _hashes(files: Mapping[str, PathLike]) -> dict[str, str]:
    """Return the SHA-256 of the file of each split, after a check of the splits."""
    if not files:
        raise ValueError("files must name at least one split, got none")
    hashes = {}
    for split, path in files.items():
        _check.one_of("files' split", split, get_args(Split))
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file")
        with open(path, "rb") as f:
            hashes[split] = hashlib.file_digest(f, "sha256").hexdigest()
    return hashes
