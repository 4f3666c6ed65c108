"""Flips single bits at random places of checkpoints and asks qwen2-audit.

With something to compare with (SHA256SUMS and manifest of an output, or the blob names of a Hub cache) every flip must be
found: exit 1 with --check-manifest, or 65 where a file cannot even be read. Without, only structure and data can show it: that share is reported, not judged.
"""

import functools
import hashlib
import json
import pathlib
import random
import subprocess

import jobs

FIXTURE = jobs.ROOT / "fixtures" / "published-int4-g128-sharded" / "checkpoint"
SEED = 20261125


class Flips:
    """One folder for each worker would be cleaner; one file copied for each flip is enough: the folder itself stays as it is."""

    def __init__(self, options, folder):
        self.options = options
        self.made = pathlib.Path(folder) / "made"
        subprocess.run([options.convert, FIXTURE, self.made, "--target=transformers-5.x", *jobs.COMMON], check=True)
        self.hub = self.make_hub(pathlib.Path(folder) / "models--a--b")
        self.bare = FIXTURE

    def make_hub(self, root):
        """As the Hub's own client lays it out: large files by SHA-256, small ones by git's SHA-1."""
        snapshot, blobs = root / "snapshots" / ("0" * 40), root / "blobs"
        snapshot.mkdir(parents=True)
        blobs.mkdir()
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text("0" * 40)
        for path in FIXTURE.iterdir():
            content = path.read_bytes()
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            name = hashlib.sha256(content).hexdigest() if path.suffix == ".safetensors" else git
            (blobs / name).write_bytes(content)
            (snapshot / path.name).symlink_to(f"../../blobs/{name}")
        return snapshot

    def audit(self, folder, *options):
        done = subprocess.run([self.options.audit, folder, *options, "--json"], capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout, done.stderr.strip()

    def flip(self, kind, number):
        """A copy made of links, but for the file that is changed."""
        rng = random.Random(f"{SEED}{kind}{number}")
        source = {"manifest": self.made, "hub": self.hub, "bare": self.bare}[kind]
        names = sorted(path.name for path in source.iterdir())
        sizes = [(source / name).stat().st_size for name in names]
        victim = rng.choices(names, sizes)[0] if rng.random() < 0.5 else rng.choice([name for name, size in zip(names, sizes) if size])
        content = bytearray((source / victim).read_bytes())
        bit = rng.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        with jobs.place_for() as folder:
            place = pathlib.Path(folder)
            if kind == "hub":
                place = place / "models--a--b" / "snapshots" / source.name
                (place.parent.parent / "blobs").mkdir(parents=True)
                (place.parent.parent / "refs").mkdir()
                (place.parent.parent / "refs" / "main").write_text(source.name)
            place.mkdir(parents=True, exist_ok=True)
            for name in names:
                real = (source / name).resolve()
                target = place.parent.parent / "blobs" / real.name if kind == "hub" else place / name
                if name == victim:
                    target.write_bytes(content)
                else:
                    target.hardlink_to(real)
                if kind == "hub":
                    (place / name).symlink_to(f"../../blobs/{real.name}")
            return victim, bit, self.audit(place, "--read-data" if kind == "bare" else "--check-manifest")

    def check(self, kind, number):
        victim, bit, (code, _, said) = self.flip(kind, number)
        # 65: so broken that it cannot be read. A digit in capitals is the same digest.
        harmless = victim == "SHA256SUMS" and bit % 8 == 5 and chr((self.made / victim).read_bytes()[bit // 8]) in "abcdef"
        return [] if code in (1, 65) or harmless else [f"bit {bit} of {victim}: exit {code}, expected 1: {said}"]

    def checks(self, count):
        for number in range(count):
            kind = ("manifest", "hub")[number % 2]
            yield f"flip {number} ({kind})", functools.partial(self.check, kind, number)

    def share(self, pool, count):
        """Of flips in a folder without any digest, how many are found by structure and data; by part of the file."""
        _, sound, _ = self.audit(self.bare, "--read-data")
        sound = {(finding["id"], str(finding["tensors"])) for finding in json.loads(sound)["findings"]}
        found = {}
        for victim, _, (code, out, _) in pool.map(lambda number: self.flip("bare", number), range(count)):
            part = "weights" if victim.endswith(".safetensors") else "other files"
            seen = code not in (0, 1) or {(finding["id"], str(finding["tensors"])) for finding in json.loads(out)["findings"]} - sound
            hits, total = found.get(part, (0, 0))
            found[part] = hits + bool(seen), total + 1
        return found
