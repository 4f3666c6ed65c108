#!/usr/bin/python3
"""The Python package with the fixtures of the project: over the programs that PATH leads to, or over those it was installed with.

    test_package.py [CASE...]
"""

import fcntl
import os
import pathlib
import shutil
import stat
import sys
import tempfile
import unittest
import unittest.mock

import qwen2_convert  # with convert/python on PYTHONPATH, or installed

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "fixtures" / "published-int4-g128-sharded" / "checkpoint"
MIXED = ROOT / "fixtures" / "autogptq-0.7.1-int4-g32-asym-tied" / "checkpoint"
TIMEOUT_SECONDS = 60


class Package(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def program(self, script):
        """Another qwen2-convert."""
        path = self.folder / "qwen2-convert"
        path.write_text(f"#!{sys.executable}\nimport json, os, signal, sys, time\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        patch = unittest.mock.patch.object(qwen2_convert, "_program", lambda name: str(path))
        patch.start()
        self.addCleanup(patch.stop)

    def test_program(self):
        """One that is recorded beside the package is taken, and PATH where there is none."""
        site = self.folder / "lib" / "site-packages"
        (self.folder / "bin").mkdir()
        (self.folder / "bin" / "qwen2-zoo").touch()
        (site / "qwen2_convert-1.dist-info").mkdir(parents=True)
        (site / "qwen2_convert-1.dist-info" / "METADATA").write_text("Name: qwen2-convert\nVersion: 1\n")
        (site / "qwen2_convert-1.dist-info" / "RECORD").write_text("../../bin/qwen2-zoo,,\n../../bin/qwen2-audit,,\n")
        with unittest.mock.patch.object(qwen2_convert, "__file__", str(site / "qwen2_convert" / "__init__.py")):
            self.assertEqual(qwen2_convert._program("qwen2-zoo"), str((self.folder / "bin" / "qwen2-zoo").resolve()))
            self.assertEqual(qwen2_convert._program("qwen2-audit"), "qwen2-audit")
            self.assertEqual(qwen2_convert._program("qwen2-convert"), "qwen2-convert")

    def raises(self, error, *arguments, call=None, **options):
        with self.assertRaises(qwen2_convert.Error) as caught:
            (call or qwen2_convert.convert)(*arguments, **options)
        self.assertIs(type(caught.exception), error)
        self.assertEqual(caught.exception.code, error.code)
        self.assertTrue(caught.exception.message)
        return caught.exception

    def test_convert(self):
        out = self.folder / "out"
        report = qwen2_convert.convert(FIXTURE, out, target="transformers-5.x")
        self.assertTrue(report["ok"])
        self.assertEqual(report["output"], str(out))
        self.assertEqual((report["verification"]["level"], report["verification"]["findings"]), ("forward", []))
        self.assertTrue((out / "SHA256SUMS").is_file())

    def test_options(self):
        out = self.folder / "out"
        written = self.folder / "report.json"
        qwen2_convert.convert(str(FIXTURE), str(out), target=["transformers-4.x", "transformers-5.x"], shard_size="100KB", verify="exact", jobs=1, undo=True, report=written, skip=["config-code", "config-private"], force=False, layout=None)
        self.assertTrue((out / "qwen2-convert.undo.zst").is_file())
        self.assertTrue(written.is_file())
        self.assertGreater(len(list(out.glob("*.safetensors"))), 2)

    def test_plan_writes_nothing(self):
        report = qwen2_convert.plan(FIXTURE, target="gguf")
        self.assertEqual((report["target"], report["layout"]), ("gguf", "gguf-q4_0"))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_audit(self):
        report = qwen2_convert.audit(FIXTURE, read_data=True)
        self.assertIn("extra-zero-bias", [finding["id"] for finding in report["findings"]])

    def test_usage(self):
        self.assertEqual(self.raises(qwen2_convert.UsageError, FIXTURE, self.folder / "out", target="nothing").id, "target")
        self.assertEqual(self.raises(qwen2_convert.UsageError, FIXTURE, self.folder / "out", target="gguf", no_such_option=1).id, "usage")
        self.raises(qwen2_convert.UsageError, self.folder / "not-there", call=qwen2_convert.audit)

    def test_malformed(self):
        broken = self.folder / "broken"
        shutil.copytree(FIXTURE, broken)
        (broken / "config.json").write_text("{")
        self.assertEqual(self.raises(qwen2_convert.Malformed, broken, self.folder / "out", target="gguf").id, "json")
        error = self.raises(qwen2_convert.Malformed, broken, call=qwen2_convert.audit)
        self.assertEqual(error.report["findings"][0]["id"], "json")

    def test_refused(self):
        error = self.raises(qwen2_convert.Refused, MIXED, self.folder / "out", target="vllm-gptq")
        self.assertFalse(error.report["ok"])
        self.assertFalse((self.folder / "out").exists())

    def test_try_again(self):
        staging = self.folder / ".out.qwen2-convert"
        staging.mkdir()
        with open(staging / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.raises(qwen2_convert.TryAgain, FIXTURE, self.folder / "out", target="transformers-5.x")

    def test_progress(self):
        steps = []
        qwen2_convert.convert(FIXTURE, self.folder / "out", target="transformers-5.x", progress=steps.append)
        self.assertEqual(list(dict.fromkeys(step.stage for step in steps)), ["writing", "reading back", "comparing"])
        self.assertTrue(all(0 < step.done <= step.total for step in steps), steps)

    def test_progress_that_raises_ends_the_program(self):
        self.program(
            "signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[-1], 'w').close(), sys.exit(143)))\n"
            "print('progress: writing, 1 of 2 bytes', file=sys.stderr, flush=True)\n"
            f"time.sleep({TIMEOUT_SECONDS})"
        )
        with self.assertRaises(ZeroDivisionError):
            qwen2_convert.convert("in", self.folder / "ended", target="x", progress=lambda step: step.done / 0)
        self.assertTrue((self.folder / "ended").exists())

    def test_report_larger_than_a_pipe(self):
        # Standard output first and standard error last, so that neither may be read to its end before the other.
        self.program("print(json.dumps({'ok': True, 'text': 'x' * (1 << 20)}), flush=True)\nprint('x\\n' * (1 << 20), file=sys.stderr)")
        self.assertEqual(len(qwen2_convert.convert("in", "out", target="x")["text"]), 1 << 20)

    def test_exit_codes(self):
        self.program("print('qwen2-convert: error: why [name]', file=sys.stderr); sys.exit(int(sys.argv[-1]))")
        for code, error in {
            1: qwen2_convert.Mismatch, 2: qwen2_convert.UsageError, 3: qwen2_convert.NotRun, 65: qwen2_convert.Malformed, 69: qwen2_convert.Refused,
            70: qwen2_convert.InternalError, 74: qwen2_convert.IoError, 75: qwen2_convert.TryAgain, 76: qwen2_convert.NoSpace,
            77: qwen2_convert.PermissionDenied, 130: qwen2_convert.Interrupted, 143: qwen2_convert.Interrupted, 99: qwen2_convert.Error,
        }.items():
            with self.assertRaises(error) as caught:
                qwen2_convert.convert("in", str(code), target="x")
            self.assertEqual((type(caught.exception), caught.exception.code, caught.exception.id, caught.exception.message), (error, code, "name", "why"))


if __name__ == "__main__":
    unittest.main()
