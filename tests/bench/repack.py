#!/usr/bin/python3
"""Time and memory of repacking beside a plain copy of the same folder, and beside the nearest peers.

A synthetic GPTQ checkpoint is written to the work folder; the jobs run in turn (measure.py says how
each run is prepared).

  cp            cp -r in out && sync. The bar of the repacks, on the bytes that they read.
  TARGET        qwen2-convert in out --target=TARGET --verify=hash --quiet, for each of --targets.

With --container=bin the input is what torch.save writes.

With --peers=FOLDER (where scripts/interop.sh keeps its stacks) and the 1.5B shape also, on AWQ made
from the same checkpoint and on the checkpoint itself:

  awq -> compressed-tensors   qwen2-convert beside compressed-tensors 0.20 convert_checkpoint, two workers
  gptq -> dense-bf16          qwen2-convert beside GPTQModel 7.7 dequantize_model

Targets: repacks <= 1.5 x cp (medians); RSS <= 512 MiB; at least 10 x as fast as each peer.
Exit code: 0 all met, 1 one missed or a job failed, 2 usage.
"""
import argparse
import subprocess
import sys

import measure
from measure import CONTROL, COPY, RSS_LIMIT

TARGETS = ["compressed-tensors", "awq", "mlx", "gguf"]
REPACK_LIMIT, PEER_FACTOR = 1.5, 10
PEERS = {"awq -> compressed-tensors": "compressed-tensors 0.20", "gptq -> dense-bf16": "GPTQModel 7.7"}
CONVERT_CT = """
import sys
from compressed_tensors.entrypoints.convert import AutoAWQConverter, convert_checkpoint
convert_checkpoint(sys.argv[1], sys.argv[2], AutoAWQConverter.from_pretrained(sys.argv[1]), max_workers=2, device="cpu")
"""
DEQUANTIZE = """
import os, sys
os.cpu_count = lambda: 4
import torch
from gptqmodel.utils.model_dequant import dequantize_model
dequantize_model(sys.argv[1], sys.argv[2], target_dtype=torch.bfloat16)
"""


def time_beside_copy(args, src, out, commands):
    """row -> list of Run, for cp, the commands and cp again"""
    jobs = {COPY: measure.copy(src, out), **commands, CONTROL: measure.copy(src, out)}
    return measure.interleave(jobs, args.rounds, lambda _: measure.quiesce(src, out, args.touch))


def time_repacks(args, src, out, targets):
    return time_beside_copy(args, src, out, {target: measure.convert(args.bin, src, out, target) for target in targets})


def synced(python, program, *words):
    """Ends when its output is on the disk, as ours does."""
    return ["sh", "-c", '"$@" && sync', "sh", python, "-c", program, *words]


def time_peers(args, src, out, awq):
    """(what, runs of ours, runs of the peer) for each of PEERS"""
    subprocess.run(measure.convert(args.bin, src, awq, "awq"), check=True)
    pairs = (
        (awq, measure.convert(args.bin, awq, out, "compressed-tensors"), synced(f"{args.peers}/peers/bin/python", CONVERT_CT, awq, out)),
        (src, measure.convert(args.bin, src, out, "dense-bf16", "hash", "--allow-rounding"), synced(f"{args.peers}/t5/bin/python", DEQUANTIZE, src, out)))
    for name, (folder, ours, theirs) in zip(PEERS, pairs):
        results = measure.interleave({"ours": ours, "theirs": theirs}, args.rounds, lambda _, folder=folder: measure.quiesce(folder, out, args.touch))
        yield name, results["ours"], results["theirs"]


def report_repacks(results):
    met = True
    print(measure.HEAD)
    for name, runs in results.items():
        ratio, rss = measure.seconds(runs) / measure.seconds(results[COPY]), measure.peak(runs)
        checks = [] if name in (COPY, CONTROL) else [
            (f"{ratio:.2f} <= {REPACK_LIMIT}", ratio <= REPACK_LIMIT), (f"RSS {rss:.0f} <= {RSS_LIMIT}", rss <= RSS_LIMIT)]
        met = met and all(good for _, good in checks)
        print(measure.row(name, runs, results[COPY], checks))
    return met


def report_peers(pairs):
    met = True
    print("\n| job | qwen2-convert s | RSS MiB | peer | s | RSS MiB | times as fast | target |\n|---|---|---|---|---|---|---|---|")
    for name, ours, theirs in pairs:
        factor = measure.seconds(theirs) / measure.seconds(ours)
        good = factor >= PEER_FACTOR and measure.peak(ours) <= RSS_LIMIT
        met = met and good
        print(f"| {name} | {measure.seconds(ours):.2f} | {measure.peak(ours):.0f} | {PEERS[name]} | {measure.seconds(theirs):.2f} | {measure.peak(theirs):.0f} "
              f"| {factor:.1f} | >= {PEER_FACTOR}: {'pass' if good else 'MISS'} |")
    return met


def measure_repack(args, work):
    src, out = f"{work}/in", f"{work}/out"
    measure.generate(src, args.shape, f"--container={args.container}")
    met = report_repacks(time_repacks(args, src, out, args.targets))
    if args.peers:
        met = report_peers(time_peers(args, src, out, f"{work}/awq")) and met
    return met


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--shape", default="1.5B", help="as make_synthetic.py knows them (default 1.5B)")
    p.add_argument("--container", default="safetensors", help="of the input: safetensors (default) or bin")
    p.add_argument("--targets", type=measure.comma_list, default=TARGETS, metavar="LIST")
    p.add_argument("--peers", metavar="DIR", help="the stacks of scripts/interop.sh; without it no peer is run")
    measure.add_options(p, rounds=3)
    args = measure.parse(p)
    return measure.in_work_folder(args, lambda work: measure_repack(args, work))


if __name__ == "__main__":
    sys.exit(main())
