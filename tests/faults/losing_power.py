"""Loses power at every step of a job: what was not synced is gone.

One run is recorded (Q2C_LOG of preload.c); then, for each step, the folder is built as a file system may show it after the
power failed there, in two ways:

  dropped   only what was synced is there: file contents as of their last fsync, names as of the last fsync of their
            folder (a rename, or an exchange, survives as a whole with either of its two folders)
  zeros     every name is there, as a journal of metadata keeps it, but what was not synced of a file reads as zeros

After each: out/ is as before or whole; the next run succeeds with the bytes of an undisturbed run. After the last step,
which is exit 0, the whole output is there both ways.
"""

import functools
import pathlib

import jobs

EXCHANGE = 2


class File:
    def __init__(self, content=b""):
        self.now, self.kept = bytearray(content), bytearray(content)
        self.written = []  # ranges since the last sync


class Folder:
    def __init__(self):
        self.now, self.kept = {}, {}


class Disk:
    """What the kernel shows, and what is on the platter."""

    def __init__(self, place):
        self.inodes = {}
        self.root = self.load(place)

    def load(self, path):
        if path.is_dir():
            node = Folder()
            node.now = {entry.name: self.load(entry) for entry in path.iterdir()}
            node.kept = dict(node.now)
        else:
            node = File(path.read_bytes())
        self.inodes[path.stat().st_ino] = node
        return node

    def apply(self, step):
        getattr(self, step[0])(*step[1:])

    def create(self, folder, inode, name):
        self.inodes[folder].now[name] = self.inodes[inode] = File()

    def mkdir(self, folder, inode, name):
        self.inodes[folder].now[name] = self.inodes[inode] = Folder()

    def unlink(self, folder, name):
        del self.inodes[folder].now[name]

    def allocate(self, inode, size):
        file = self.inodes[inode]
        file.now.extend(bytes(max(0, size - len(file.now))))

    def write(self, inode, offset, content):
        file = self.inodes[inode]
        self.allocate(inode, offset + len(content))
        file.now[offset:offset + len(content)] = content
        file.written.append((offset, offset + len(content)))

    def sync(self, inode):
        node = self.inodes[inode]
        if isinstance(node, Folder):
            for change in node.now.keys() | node.kept.keys():
                self.keep(node, change)
        else:
            node.kept, node.written = bytearray(node.now), []

    def keep(self, folder, name):
        """The name reaches the platter, and with it the other half of the rename that put it there or took it away."""
        if folder.now.get(name) is folder.kept.get(name):
            return
        moved = [node for node in (folder.now.get(name), folder.kept.get(name)) if node is not None]
        if name in folder.now:
            folder.kept[name] = folder.now[name]
        else:
            del folder.kept[name]
        for other in list(self.inodes.values()):
            if isinstance(other, Folder) and other is not folder:
                for theirs in [key for key in other.now.keys() | other.kept.keys() if other.now.get(key) is not other.kept.get(key)]:
                    if any(node in (other.now.get(theirs), other.kept.get(theirs)) for node in moved):
                        self.keep(other, theirs)

    def rename(self, a, b, flags, name, target):
        source, to = self.inodes[a].now, self.inodes[b].now
        moved = source.pop(name)
        if flags & EXCHANGE:
            source[name] = to[target]
        to[target] = moved

    def build(self, place, zeros, node=None):
        folder = node or self.root
        for name, entry in (folder.now if zeros else folder.kept).items():
            path = place / name
            if isinstance(entry, Folder):
                path.mkdir()
                self.build(path, zeros, entry)
            else:
                content = bytearray(entry.now if zeros else entry.kept)
                for begin, end in entry.written if zeros else ():
                    content[begin:end] = bytes(end - begin)
                path.write_bytes(content)


def steps_of(log):
    """The lines of a log as (name, argument...)."""
    steps, at = [], 0
    while at < len(log):
        end = log.index(b"\n", at)
        name, *rest = log[at:end].decode().split(" ")
        at = end + 1
        if name == "write":
            inode, offset, size = map(int, rest)
            steps.append((name, inode, offset, log[at:at + size]))
            at += size
        elif name == "rename":
            source, target = rest[3].split("/")
            steps.append((name, *map(int, rest[:3]), source, target))
        else:
            steps.append((name, *(int(word) if word.isdigit() else word for word in rest)))
    return steps


def losses(job, every):
    """A check for each moment and way; --every=N takes every N-th moment, and the last."""
    with jobs.place_for() as folder:
        place = pathlib.Path(folder) / "place"
        place.mkdir()
        job.prepare(place)
        disk = Disk(place)
        done = job.run(place, {"Q2C_LOG": f"{folder}/log"})
        if done.returncode != 0:
            raise SystemExit(f"{job.name}: the recorded run failed: {done.stderr}")
        steps = steps_of((pathlib.Path(folder) / "log").read_bytes())
    for number, step in enumerate([*steps, None]):
        if step is None or number % every == 0:
            for zeros in (False, True):
                after = jobs.place_for()
                disk.build(pathlib.Path(after.name), zeros)
                yield f"{job.name}: power lost at step {number}, {'zeros' if zeros else 'dropped'}", functools.partial(look, job, after, step is None)
        if step is not None:
            disk.apply(step)


def look(job, after, is_last):
    with after as folder:
        place = pathlib.Path(folder)
        out = jobs.digests(place / "out")
        wrong = [] if job.is_whole(out) else [f"half an output: {sorted(out)}"]
        if is_last and out != job.expected:
            wrong.append("exit 0, but the output was not there to stay")
        return wrong + job.check_again(place)
