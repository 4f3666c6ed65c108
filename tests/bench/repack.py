#!/usr/bin/python3
"""Time and memory of repacking beside a plain copy of the same folder, and beside the nearest peers.

A synthetic GPTQ checkpoint is written to the work folder; the jobs run in turn, as in bench.py, which
says why each run is prepared as it is.

  cp            cp -r in out && sync. The bar of the repacks, on the bytes that they read.
  TARGET        qwen2-convert in out --target=TARGET --verify=hash --quiet, for each of --targets.

With --peers=FOLDER (where scripts/interop.sh keeps its stacks) and the 1.5B shape also, on AWQ made
from the same checkpoint and on the checkpoint itself:

  awq -> compressed-tensors   qwen2-convert beside compressed-tensors 0.20 convert_checkpoint, two workers
  gptq -> dense-bf16          qwen2-convert beside GPTQModel 7.7 dequantize_model

Targets: repacks <= 1.5 x cp (medians); RSS <= 512 MiB; at least 10 x as fast as each peer.
Exit code: 0 all met, 1 one missed or a job failed, 2 usage.
"""
import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

import bench

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
REPACK_LIMIT, RSS_LIMIT, PEER_FACTOR = 1.5, 512, 10


def convert(args, src, out, target, *extra):
    return [args.bin, src, out, f"--target={target}", "--verify=hash", "--quiet", *extra]


def repeat(args, jobs, out, prepared_from):
    """row -> list of (seconds, user, system, RSS); round 0 is not counted"""
    results = {name: [] for name in jobs}
    for i in range(args.rounds + 1):
        for name, command in jobs.items():
            bench.quiesce(prepared_from[name], out)
            result = bench.run(command)
            if i > 0:
                results[name].append(result)
            bench.talk(f"round {i or '0 (not counted)'}: {name}: {result[0]:.2f} s, CPU {result[1]:.2f} + {result[2]:.2f} s")
    return results


def rows_against(results, bar, limit):
    """prints one row a job; True if all but the bar keep within the limit"""
    met = True
    base = statistics.median(r[0] for r in results[bar])
    for name, runs in results.items():
        seconds, user, system, rss = zip(*runs)
        ratio, peak = statistics.median(seconds) / base, max(rss)
        good = name.startswith("cp") or (ratio <= limit and peak <= RSS_LIMIT)
        met = met and good
        judged = "" if name.startswith("cp") else f"{ratio:.2f} <= {limit}, RSS {peak:.0f} <= {RSS_LIMIT}: {'pass' if good else 'MISS'}"
        print(f"| {name} | {statistics.median(seconds):.2f} | {min(seconds):.2f}–{max(seconds):.2f} | {statistics.median(user):.2f} + {statistics.median(system):.2f} "
              f"| {ratio:.2f} | {min(seconds) / min(r[0] for r in results[bar]):.2f} | {peak:.0f} | {judged} |")
    return met


def measure_repacks(args, src, out):
    copy = ["sh", "-c", 'cp -r "$1" "$2" && sync', "sh", src, out]
    jobs = {"cp -r && sync": copy}
    jobs |= {target: convert(args, src, out, target) for target in args.targets}
    jobs["cp -r && sync, control"] = copy
    results = repeat(args, jobs, out, dict.fromkeys(jobs, src))
    print("| job | median s | min–max | user + sys CPU s | ratio to cp | of minima | RSS MiB | targets |\n|---|---|---|---|---|---|---|---|")
    return rows_against(results, "cp -r && sync", REPACK_LIMIT)


def synced(python, program, *words):
    """Ends when its output is on the disk, as ours does."""
    return ["sh", "-c", '"$@" && sync', "sh", python, "-c", program, *words]


def measure_peers(args, src, out, awq):
    subprocess.run(convert(args, src, awq, "awq"), check=True)
    pairs = {
        "awq -> compressed-tensors": (awq, convert(args, awq, out, "compressed-tensors"),
                                      synced(f"{args.peers}/peers/bin/python", CONVERT_CT, awq, out), "compressed-tensors 0.20"),
        "gptq -> dense-bf16": (src, convert(args, src, out, "dense-bf16", "--allow-rounding"),
                               synced(f"{args.peers}/t5/bin/python", DEQUANTIZE, src, out), "GPTQModel 7.7"),
    }
    met = True
    print("\n| job | qwen2-convert s | RSS MiB | peer | s | RSS MiB | times as fast | target |\n|---|---|---|---|---|---|---|---|")
    for name, (folder, ours, theirs, peer) in pairs.items():
        results = repeat(args, {"ours": ours, "theirs": theirs}, out, {"ours": folder, "theirs": folder})
        mine, other = (statistics.median(r[0] for r in results[row]) for row in ("ours", "theirs"))
        rss, other_rss = (max(r[3] for r in results[row]) for row in ("ours", "theirs"))
        good = other / mine >= PEER_FACTOR and rss <= RSS_LIMIT
        met = met and good
        print(f"| {name} | {mine:.2f} | {rss:.0f} | {peer} | {other:.2f} | {other_rss:.0f} | {other / mine:.1f} | >= {PEER_FACTOR}: {'pass' if good else 'MISS'} |")
    return met


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--shape", default="1.5B", help="as make_synthetic.py knows them (default 1.5B)")
    p.add_argument("--targets", type=bench.comma_list, default=["compressed-tensors", "awq", "mlx", "gguf"], metavar="LIST")
    p.add_argument("--rounds", type=int, default=3, metavar="N")
    p.add_argument("--work", default=os.environ.get("TMPDIR", "/tmp"), metavar="DIR", help="folder on the disk to measure")
    p.add_argument("--peers", metavar="DIR", help="the stacks of scripts/interop.sh; without it no peer is run")
    p.add_argument("--bin", default=f"{bench.ROOT}/build/bin/qwen2-convert", metavar="FILE")
    args = p.parse_args()
    args.bin = os.path.abspath(args.bin)
    if not os.access(args.bin, os.X_OK):
        p.error(f"'{args.bin}': no such program; build it or name it with --bin")
    work = tempfile.mkdtemp(prefix="qwen2-bench-", dir=args.work)
    src, out, awq = f"{work}/in", f"{work}/out", f"{work}/awq"
    try:
        bench.generate(src, args.shape)
        met = measure_repacks(args, src, out)
        if args.peers:
            met = measure_peers(args, src, out, awq) and met
    except (RuntimeError, OSError, subprocess.CalledProcessError) as e:
        bench.talk(f"repack.py: error: {e}")
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
