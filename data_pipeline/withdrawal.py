"""Taking samples out of a dataset: their keys go into `withdrawn.txt`, the tars stay as they are."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_pipeline.location import RemotePath
from data_pipeline.manifest import Manifest, read_manifest
from data_pipeline.withdrawn import WITHDRAWN, find_keys, read_keys
from launch.atomic import write_atomically


@dataclass(frozen=True)
class Withdrawal:
    """What has changed: the dataset before and after, and how many of the keys were new to the list."""

    before: Manifest
    after: Manifest
    added: int

    def lines(self) -> list[str]:
        """For people."""
        said = [f"{self.after.folder / WITHDRAWN}: {self.added:,} keys added"]
        for name, split in self.after.splits.items():
            old = self.before.splits[name]
            if split.fingerprint != old.fingerprint:
                said.append(
                    f"{name}: {len(split.withdrawn):,} of {split.samples:,} samples are withdrawn; fingerprint "
                    f"{split.fingerprint}, was {old.fingerprint}"
                )
        if self.added:
            said.append("runs begun before refuse to go on with this dataset: begin them anew, or take the keys out")
        return said


def withdraw(folder: str, keys: Sequence[str]) -> Withdrawal:
    """Add keys to the list, which stays sorted, each once; lines with comments stay as they are.

    Raises:
        ValueError: a folder that cannot be written to, a key that no sample has, or no sample would be left of a split.
        FileNotFoundError: no dataset there.
        DatasetError: an index or list of names is absent or altered.
        OSError: a full disk; the list is then as before.
    """
    before = read_manifest(folder)
    if isinstance(before.folder, RemotePath):
        raise ValueError(  # noqa: TRY004
            f"--data {before.folder}: is not on this machine, expected a local folder; withdraw from a copy of its "
            f"manifest and indexes, and upload {WITHDRAWN}"
        )
    path = before.folder / WITHDRAWN
    text = path.read_text() if path.is_file() else ""
    wanted = read_keys("\n".join(keys))
    for name, numbers in find_keys(before, wanted).items():
        split = before.splits[name]
        if len({*numbers, *split.withdrawn}) == split.samples:
            raise ValueError(f"--keys: no sample of split {name} would be left; withdraw fewer of them")
    added = sorted(set(wanted) - set(read_keys(text)))
    if added:
        lines = [line for line in text.splitlines() if line.strip()]
        comments = [line for line in lines if line.lstrip().startswith("#")]
        listed = {line.partition("#")[0].strip(): line for line in reversed(lines) if line not in comments}
        listed |= {each: each for each in added}
        write_atomically(path, "".join(f"{line}\n" for line in [*comments, *(listed[each] for each in sorted(listed))]))
    return Withdrawal(before, read_manifest(folder), len(added))
