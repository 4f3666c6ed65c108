#!/usr/bin/python3
"""Signatures and provenance, judged by openssl and by their definitions.

    check_signature.py CONVERT AUDIT

A conversion is signed with a key of each curve; the signature must hold for `openssl dgst -verify` over what DSSE says is signed,
and for qwen2-audit; then keys, files and the signature are changed, each with its own message and exit code.
"""

import base64
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

FIXTURE = pathlib.Path(__file__).resolve().parents[2] / "fixtures" / "published-int4-g128-sharded" / "checkpoint"
CONVERT, AUDIT = (str(pathlib.Path(path).resolve()) for path in sys.argv[1:3])
CURVES = {"prime256v1": "sha256", "secp384r1": "sha384", "secp521r1": "sha512"}


def need(condition, text):
    if not condition:
        sys.exit(f"check_signature.py: {text}")


def openssl(*words, **more):
    return subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, **more).stdout


def expect(code, id, program, *words, passphrase=None):
    environment = dict(os.environ, **({"QWEN2_CONVERT_PASSPHRASE": passphrase} if passphrase else {}))
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, env=environment)
    said = done.stdout + done.stderr
    need(done.returncode == code and (not id or f"[{id}]" in said), f"{words}: exit {done.returncode}, expected {code} [{id}]: {said}")
    return said


def convert(place, *words, code=0, id="", passphrase=None):
    out = place / "out"
    shutil.rmtree(out, ignore_errors=True)
    expect(code, id, CONVERT, FIXTURE, out, "--target=transformers-5.x", "--verify=hash", "--quiet", *words, passphrase=passphrase)
    need(out.exists() == (code == 0), f"{words}: exit {code}, and output {out.exists()}")
    return out


def check_with_openssl(out, public, digest):
    bundle = json.loads((out / "model.sig").read_text())
    envelope = bundle["dsseEnvelope"]
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    (out.parent / "signed").write_bytes(signed)
    (out.parent / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    openssl("dgst", f"-{digest}", "-verify", public, "-signature", out.parent / "sig", out.parent / "signed")
    need(bundle["verificationMaterial"]["publicKey"]["hint"] == hashlib.sha256(public.read_bytes()).hexdigest(), "the hint is not that of the public key")
    statement = json.loads(payload)
    resources = {item["name"]: item["digest"] for item in statement["predicate"]["resources"]}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir() if path.name != "model.sig"}
    need(resources == found and list(resources) == sorted(resources), "what is signed is not what is there")
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in resources.values())).hexdigest()
    need(statement["subject"] == [{"name": "out", "digest": {"sha256": root}}], f"subject {statement['subject']}")


def check_provenance(out):
    statement = json.loads((out / "provenance.intoto.json").read_text())
    need(statement["_type"] == "https://in-toto.io/Statement/v1" and statement["predicateType"] == "https://slsa.dev/provenance/v1", "types of the provenance")
    build = statement["predicate"]["buildDefinition"]
    need(set(build) >= {"buildType", "externalParameters", "resolvedDependencies"} and "id" in statement["predicate"]["runDetails"]["builder"], "what SLSA v1 requires")
    of = lambda items: {item["name"]: item["digest"]["sha256"] for item in items}
    need(of(build["resolvedDependencies"]) == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FIXTURE.iterdir()}, "the inputs of the provenance")
    subjects = of(statement["subject"])
    need(len(subjects) > 5 and all(hashlib.sha256((out / name).read_bytes()).hexdigest() == digest for name, digest in subjects.items()), "the outputs of the provenance")


def main():
    with tempfile.TemporaryDirectory(prefix="q2c-signature-") as folder:
        place = pathlib.Path(folder)
        keys = {}
        for curve, digest in CURVES.items():
            private, public = place / f"{curve}.pem", place / f"{curve}.pub"
            private.write_bytes(openssl("ecparam", "-name", curve, "-genkey", "-noout"))
            public.write_bytes(openssl("pkey", "-in", private, "-pubout"))
            keys[curve] = private, public
            out = convert(place, f"--sign={private}", "--provenance")
            check_with_openssl(out, public, digest)
            check_provenance(out)
            expect(0, "", AUDIT, out, f"--verify-signature={public}")
        private, public = keys["prime256v1"]
        expect(1, "signature-key", AUDIT, out, f"--verify-signature={public}")  # signed with that of P-521
        out = convert(place, f"--sign={private}")
        first = (out / "model.sig").read_bytes()
        expect(3, "signature-not-checked", AUDIT, out, "--verify-signature")
        expect(0, "", CONVERT, out, place / "next", "--target=gptqmodel", "--verify=hash", "--quiet")
        need(not (place / "next" / "model.sig").exists(), "a signature was carried over to other files")

        config = (out / "config.json").read_bytes()
        (out / "config.json").write_bytes(config.replace(b"qwen2", b"qwen3"))
        expect(1, "signature-file-changed", AUDIT, out, f"--verify-signature={public}")
        (out / "config.json").unlink()
        expect(1, "signature-file-missing", AUDIT, out, f"--verify-signature={public}")
        (out / "config.json").write_bytes(config)
        (out / "more").mkdir()
        (out / "more" / "file").write_text("x")
        expect(1, "signature-file-extra", AUDIT, out, f"--verify-signature={public}")
        shutil.rmtree(out / "more")

        def forge(change, code, id):
            bundle = json.loads(first)
            statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
            change(bundle, statement)
            bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
            (out / "model.sig").write_text(json.dumps(bundle))
            expect(code, id, AUDIT, out, f"--verify-signature={public}")

        forge(lambda bundle, statement: statement["subject"][0].update(name="another"), 1, "signature-forged")
        forge(lambda bundle, statement: statement.update(predicateType="https://model_signing/signature/v2.0"), 69, "signature-version")
        forge(lambda bundle, statement: bundle.update(mediaType="application/other"), 69, "signature-version")
        forge(lambda bundle, statement: statement["predicate"]["resources"].pop(), 65, "signature")
        (out / "model.sig").write_text("{}")
        expect(65, "signature", AUDIT, out, f"--verify-signature={public}")
        (out / "model.sig").unlink()
        expect(3, "no-signature", AUDIT, out, f"--verify-signature={public}")

        locked, rsa = place / "locked.pem", place / "rsa.pem"
        locked.write_bytes(openssl("pkcs8", "-topk8", "-in", private, "-passout", "pass:secret"))
        rsa.write_bytes(openssl("genpkey", "-algorithm", "RSA"))
        (place / "text.pem").write_text("no key")
        convert(place, f"--sign={locked}", passphrase="secret")
        convert(place, f"--sign={locked}", code=2, id="key-passphrase")
        convert(place, f"--sign={locked}", code=2, id="key-passphrase", passphrase="wrong")
        convert(place, f"--sign={rsa}", code=69, id="key-type")
        convert(place, f"--sign={place / 'text.pem'}", code=65, id="key")
        convert(place, f"--sign={public}", code=65, id="key")
        convert(place, f"--sign={place / 'none.pem'}", code=65, id="file-missing")
    print("signatures of 3 curves, provenance, and what is wrong with them: as expected")


if __name__ == "__main__":
    main()
