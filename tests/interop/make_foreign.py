#!/usr/bin/env python3
"""Small checkpoints that other people's libraries wrote, for the inputs the tool has to read.

    make_foreign.py OUT [NAME...]     all that are in MAKERS, or the named ones; each becomes OUT/NAME/

The weights are those of fixtures/published-int4-g128-sharded, decoded to float16; each library quantises and packs
them itself. OUT/NAME/checkpoint is what it wrote, untouched; OUT/NAME/expected.safetensors holds input_ids and the
logits that transformers computes in float32 on the weights as the library itself dequantises them (its scales widened
to float32 first, so that nothing is rounded to half precision). The stacks come from stacks.sh.

Marlin needs outputs in multiples of 256, so its makers get a model twice as wide that computes the same: each hidden
channel, head and key-value head is there twice, each weight is split unevenly between the copies of its input.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import types

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parent.parent / "fixtures" / "published-int4-g128-sharded"
STACK_DIR = pathlib.Path(
    os.environ.get("QWEN2_INTEROP_DIR") or os.path.join(os.environ.get("TMPDIR") or "/tmp", "qwen2-interop"))
LLAMA_PACKAGE = "llama-cpp-python==0.3.36"
HEADS, HEAD_WIDTH = 2, 64


# The dense models


def dense_tensors():
    """The source's weights in float32; linears as [out, in]."""
    import grids
    linears, others = grids.read(SOURCE / "checkpoint")
    return others | {f"{name}.weight": grid.weights() for name, grid in linears.items()}


def widened(tensors):
    """The same function with every hidden channel, head and key-value head twice."""
    random = np.random.default_rng(20250101)

    def split_inputs(matrix):
        share = random.uniform(0.2, 0.8, matrix.shape).astype(np.float32)
        return np.concatenate([matrix * share, matrix * (1 - share)], axis=1)

    def heads(matrix, copies):
        """Each head `copies` times, the copies of a head side by side, as the grouping of queries wants it."""
        by_head = matrix.reshape(-1, HEAD_WIDTH, *matrix.shape[1:])
        return np.repeat(by_head, copies, axis=0).reshape(-1, *matrix.shape[1:])

    wide = {}
    for name, tensor in tensors.items():
        kind = name.split(".")[-2]
        if kind in ("q_proj", "k_proj", "v_proj"):  # 2 and 1 heads become 4 and 4
            tensor = heads(tensor, 2 if kind == "q_proj" else 4)
            wide[name] = split_inputs(tensor) if tensor.ndim == 2 else tensor
        elif kind == "o_proj":
            share = random.uniform(0.2, 0.8, tensor.shape).astype(np.float32).reshape(len(tensor), HEADS, HEAD_WIDTH)
            by_head = tensor.reshape(len(tensor), HEADS, HEAD_WIDTH)
            pair = np.stack([by_head * share, by_head * (1 - share)], axis=2)
            wide[name] = np.tile(pair.reshape(len(tensor), -1), (2, 1))
        elif kind in ("gate_proj", "up_proj", "lm_head"):
            wide[name] = split_inputs(tensor)
        elif kind == "down_proj":
            wide[name] = np.tile(tensor, (2, 1))
        elif kind == "embed_tokens":
            wide[name] = np.tile(tensor, (1, 2))
        else:  # a norm
            wide[name] = np.tile(tensor, 2)
    return wide


def write_base(folder, tensors, config_changes):
    """A plain float16 checkpoint."""
    from safetensors.numpy import save_file
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(SOURCE / "checkpoint" / name, folder / name)
    config = json.loads((SOURCE / "checkpoint" / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config | config_changes, indent=2))
    half = {name: np.ascontiguousarray(tensor.astype(np.float16)) for name, tensor in tensors.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})


def calibration_texts():
    """Lines of Python, which is what the model was trained on."""
    lines = [line.strip() for line in pathlib.Path(__file__).read_text().splitlines()]
    return [" ".join(lines[i:i + 4]) for i in range(0, len(lines) - 4, 4)]


# The makers: each gets the base folder and the folder to write, and returns {tensor: float32 array} for every
# tensor that it quantised, as its library dequantises it.


def minimum_and_maximum(weight, group_size):
    by_group = weight.float().reshape(len(weight), -1, group_size or weight.shape[1])
    return by_group.amin(-1), by_group.amax(-1)


def compressed_tensors(base, out, bits, group_size, symmetric, dtype="float16"):
    import torch
    from compressed_tensors.compressors import ModelCompressor, PackedQuantizationCompressor
    from compressed_tensors.quantization import (QuantizationArgs, QuantizationConfig, QuantizationScheme,
                                                 QuantizationStatus, apply_quantization_config)
    from compressed_tensors.quantization.utils import calculate_qparams
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = getattr(torch, dtype)
    model = AutoModelForCausalLM.from_pretrained(base, torch_dtype=dtype)
    arguments = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, group_size=group_size,
                                 strategy="group" if group_size else "channel")
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"],
                                                        quantization_status=QuantizationStatus.FROZEN))
    linears = {name: module for name, module in model.named_modules() if hasattr(module, "weight_scale")}
    for module in linears.values():
        scale, zero = calculate_qparams(*minimum_and_maximum(module.weight.data, group_size), arguments)
        module.weight_scale.data = scale.to(dtype)
        if hasattr(module, "weight_zero_point"):
            module.weight_zero_point.data = zero.to(torch.int8).reshape(scale.shape)

    until_2025 = hasattr(PackedQuantizationCompressor, "decompress_weight")
    compressor = ModelCompressor.from_pretrained_model(
        model, quantization_format="pack-quantized" if until_2025 else None)
    compressor.compress_model(model)
    model.save_pretrained(out)
    compressor.update_config(out)
    AutoTokenizer.from_pretrained(base).save_pretrained(out)

    weights = {}
    for name, module in linears.items():
        parts = {key: value for key, value in module.state_dict().items() if key.startswith("weight_")}
        parts["weight_scale"] = parts["weight_scale"].float()
        parts["weight_shape"] = torch.Size(parts["weight_shape"].tolist())
        if until_2025:  # refuses packed zero points
            weight = PackedQuantizationCompressor().decompress_weight(parts, arguments)
        else:
            weight = PackedQuantizationCompressor.decompress(parts, scheme)["weight"]
        weights[f"{name}.weight"] = weight.float().numpy()
    return weights


def mlx(base, out, bits, group_size, embeddings=True):
    """mlx-lm quantises the embedding and the head too, unless a predicate says otherwise."""
    import mlx.core as mx
    from mlx_lm import convert
    mx.set_default_device(mx.cpu)
    out.rmdir()  # it wants to make the folder itself
    layers_only = {} if embeddings else {"quant_predicate": lambda path, *_: ".layers." in path}
    convert(str(base), mlx_path=str(out), quantize=True, q_group_size=group_size, q_bits=bits, **layers_only)
    stored = mx.load(str(out / "model.safetensors"))
    return {
        name.replace(".scales", ".weight"): np.array(mx.dequantize(
            stored[name.replace(".scales", ".weight")], scale.astype(mx.float32),
            stored[name.replace(".scales", ".biases")].astype(mx.float32), group_size=group_size, bits=bits))
        for name, scale in stored.items() if name.endswith(".scales")
    }


def autoawq(base, out, version, group_size, zero_point=True):
    import torch
    from awq import AutoAWQForCausalLM
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.modules.linear.gemv import WQLinear_GEMV
    from awq.modules.linear.gemv_fast import WQLinear_GEMVFast
    from awq.modules.linear.marlin import WQLinear_Marlin
    from awq.utils.packing_utils import dequantize_gemm
    from transformers import AutoTokenizer

    # Each linear is also packed as GEMM, the one layout for which AutoAWQ has a dequantiser without a GPU.
    packed = {}
    gemm_packer = WQLinear_GEMM.from_linear

    def remember(kind, packer):
        def from_linear(linear, w_bit, group_size, init_only=False, scales=None, zeros=None):
            done = packer(linear, w_bit, group_size, init_only, scales, zeros)
            if kind is WQLinear_GEMM:
                gemm = done
            else:
                gemm_zeros = torch.full_like(scales, 8) if zeros is None else zeros
                gemm = gemm_packer(linear, w_bit, group_size, False, scales.t().contiguous(),
                                   gemm_zeros.t().contiguous())
            packed[id(done)] = (done, gemm)
            return done
        kind.from_linear = from_linear

    for kind in (WQLinear_GEMM, WQLinear_GEMV, WQLinear_GEMVFast, WQLinear_Marlin):
        remember(kind, kind.from_linear)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoAWQForCausalLM.from_pretrained(str(base), device_map="cpu", torch_dtype=torch.float16)
    model.quantize(tokenizer, quant_config={"zero_point": zero_point, "q_group_size": group_size, "w_bit": 4,
                                            "version": version},
                   calib_data=calibration_texts(), max_calib_samples=64, max_calib_seq_len=128)
    model.save_quantized(str(out))
    tokenizer.save_pretrained(out)
    return {
        f"{name}.weight": dequantize_gemm(gemm.qweight, gemm.qzeros, gemm.scales.float(), 4, group_size).T.numpy()
        for name, module in model.model.named_modules() if id(module) in packed
        for gemm in [packed[id(module)][1]]
    }


def llama_converter(base, out, kind):
    """The converter of llama.cpp itself; "Q4_0" is its float16 file, then quantised by gguf-py."""
    sources = STACK_DIR / "llama-cpp-sources"
    if not sources.is_dir():
        with tempfile.TemporaryDirectory(dir=STACK_DIR) as scratch:
            subprocess.run([sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", scratch,
                            "--no-binary", "llama-cpp-python", LLAMA_PACKAGE], check=True)
            with tarfile.open(next(pathlib.Path(scratch).glob("*.tar.gz"))) as archive:
                archive.extractall(pathlib.Path(scratch) / "all", filter="data")
            shutil.move(next((pathlib.Path(scratch) / "all").glob("*/vendor/llama.cpp")), sources)
    # It knows a tokenizer by a hash of what it makes of a test text; this one is in no list, and splits like GPT-2.
    starter = ("import runpy, sys; sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[1:];"
               "import conversion.base as base;"
               "base.TextModel.get_vocab_base_pre = lambda self, tokenizer: 'gpt-2';"
               "sys.argv[0] += '/convert_hf_to_gguf.py'; runpy.run_path(sys.argv[0], run_name='__main__')")
    subprocess.run([sys.executable, "-c", starter, sources, base, "--outfile", out / "model.gguf",
                    "--outtype", kind.lower()], check=True)
    return gguf_weights(out)


def gguf_weights(out):
    import gguf
    names = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}
    layer_names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
                   "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
                   "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    weights = {}
    for tensor in gguf.GGUFReader(out / "model.gguf").tensors:
        *front, kind, suffix = tensor.name.split(".")
        name = names[kind] if not front else f"model.layers.{front[1]}.{layer_names[kind]}"
        weights[f"{name}.{suffix}"] = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    return weights


def llama_quantize(base, out, kind):
    """llama.cpp's converter to float16, then its own quantiser; this part runs in the peers stack."""
    llama_converter(base, out, "F16")
    (out / "model.gguf").rename(out / "whole.gguf")
    program = ("import sys, llama_cpp; p = llama_cpp.llama_model_quantize_default_params();"
               "p.ftype = getattr(llama_cpp, 'LLAMA_FTYPE_MOSTLY_' + sys.argv[3]);"
               "sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), p))")
    subprocess.run([STACK_DIR / "llama" / "bin" / "python", "-c", program, out / "whole.gguf", out / "model.gguf",
                    kind], check=True)
    (out / "whole.gguf").unlink()
    return gguf_weights(out)


def autogptq_linears(base, group_size):
    """The model in half precision, and (name, linear, scale [out, groups]) with every weight on AutoGPTQ's grid."""
    import torch
    from auto_gptq.quantization.quantizer import Quantizer
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(base, torch_dtype=torch.float16)
    linears = []
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or name == "lm_head":
            continue
        weight, scales = module.weight.data.float(), []
        width = weight.shape[1] if group_size == -1 else group_size
        for start in range(0, weight.shape[1], width):
            quantizer = Quantizer()
            quantizer.configure(4, perchannel=True, sym=True)
            quantizer.find_params(weight[:, start:start + width], weight=True)
            scale = quantizer.scale.half().float()
            codes = torch.clamp(torch.round(weight[:, start:start + width] / scale), -8, 7)
            weight[:, start:start + width] = codes * scale
            scales.append(scale.half())
        linears.append((name, module, weight, torch.cat(scales, dim=1)))
    return model, linears


def autogptq(base, out, group_size, marlin):
    """AutoGPTQ's packing of one and the same grid, as Marlin or as GPTQ; its writer's config by its own class."""
    import torch
    from auto_gptq import BaseQuantizeConfig
    from safetensors.torch import save_file
    if marlin:
        torch.cuda.get_device_capability = lambda *_: (8, 0)  # its class asks before it packs, which needs no GPU
        from auto_gptq.nn_modules.qlinear.qlinear_marlin import QuantLinear
    else:
        from auto_gptq.nn_modules.qlinear.qlinear_cuda_old import QuantLinear
    model, linears = autogptq_linears(base, group_size)
    weights = {}
    tensors = {name: tensor.data for name, tensor in model.named_parameters()}
    for name, module, weight, scale in linears:
        inputs, outputs = module.in_features, module.out_features
        width = inputs if group_size == -1 else group_size
        # Its Marlin class takes -1 for a number when it sizes the scales; the width itself it takes right.
        packed = QuantLinear(4, width if marlin else group_size, inputs, outputs, module.bias is not None,
                             **({} if marlin else {"weight_dtype": torch.float16}))
        module.weight.data = weight.half()
        if marlin:
            packed.pack(module, scale)
        else:
            module.weight.data = weight  # in float32 its rounding finds the codes again
            group = torch.arange(inputs, dtype=torch.int32) // width
            packed.pack(module, scale.float(), torch.full_like(scale, 8).float(), group)
        del tensors[f"{name}.weight"]
        tensors |= {f"{name}.{key}": value.half() if value.is_floating_point() else value
                    for key, value in packed.state_dict().items()}
        weights[f"{name}.weight"] = weight.numpy()
    quantization = BaseQuantizeConfig(bits=4, group_size=group_size, desc_act=False, sym=True,
                                      is_marlin_format=marlin).to_dict() | {"quant_method": "gptq"}
    config = json.loads((base / "config.json").read_text()) | {"quantization_config": quantization}
    (out / "config.json").write_text(json.dumps(config, indent=2))
    (out / "quantize_config.json").write_text(json.dumps(quantization, indent=2))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(base / name, out / name)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / "model.safetensors",
              metadata={"format": "pt"})
    return weights


def row(stack, maker, base="plain", **arguments):
    return types.SimpleNamespace(stack=stack, maker=maker, base=base, arguments=arguments)


MAKERS = {
    "compressed-tensors-0.20-int4-g128": row("peers", compressed_tensors, bits=4, group_size=128, symmetric=True),
    "compressed-tensors-0.20-int4-g32-asym": row("peers", compressed_tensors, bits=4, group_size=32, symmetric=False),
    "compressed-tensors-0.20-int8-channel-bf16":
        row("peers", compressed_tensors, bits=8, group_size=None, symmetric=True, dtype="bfloat16"),
    "compressed-tensors-0.20-int3-g128": row("peers", compressed_tensors, bits=3, group_size=128, symmetric=True),
    "compressed-tensors-0.20-int2-g32-asym": row("peers", compressed_tensors, bits=2, group_size=32, symmetric=False),
    "compressed-tensors-0.11-int3-g128-padded":
        row("makers", compressed_tensors, bits=3, group_size=128, symmetric=True),
    "mlx-lm-0.32-int4-g64": row("peers", mlx, bits=4, group_size=64),
    "mlx-lm-0.32-int4-g64-layers": row("peers", mlx, bits=4, group_size=64, embeddings=False),
    "mlx-lm-0.32-int8-g32": row("peers", mlx, bits=8, group_size=32),
    "autoawq-0.2.9-gemm-g128": row("makers", autoawq, version="GEMM", group_size=128),
    "autoawq-0.2.9-gemv-g64": row("makers", autoawq, version="GEMV", group_size=64),
    "autoawq-0.2.9-gemv-fast-g128": row("makers", autoawq, version="GEMV_FAST", group_size=128),
    "llama.cpp-f16": row("peers", llama_converter, kind="F16"),
    "llama.cpp-q8_0": row("peers", llama_converter, kind="Q8_0"),
    "llama.cpp-q4_0": row("peers", llama_quantize, kind="Q4_0"),
    "autogptq-0.7.1-marlin-g128": row("t4.40-o1.20", autogptq, base="wide", group_size=128, marlin=True),
    "autogptq-0.7.1-marlin-perchannel": row("t4.40-o1.20", autogptq, base="wide", group_size=-1, marlin=True),
    "autogptq-0.7.1-int4-g128-wide": row("t4.40-o1.20", autogptq, base="wide", group_size=128, marlin=False),
}


# Running them


def make(name, base, out, dense):
    """In the stack's python: the checkpoint, and its quantised tensors in float32 for expect()."""
    from safetensors.numpy import save_file
    maker = MAKERS[name]
    weights = maker.maker(base, out, **maker.arguments)
    save_file({key: np.ascontiguousarray(value, np.float32) for key, value in weights.items()}, dense)


def expect(base, out, dense, expected):
    """In a stack with transformers 5: the logits of the base model with the tensors of the checkpoint."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
    state = {name: tensor for name, tensor in model.state_dict().items()}
    replaced = dict(load_file(dense)) if dense.exists() else {}
    stored = {}
    for file in out.glob("*.safetensors"):
        stored |= load_file(file)
    others = {name: tensor.float() for name, tensor in stored.items() if name in state and name not in replaced}
    untold = sorted(set(state) - set(replaced) - set(others))
    if (dense.exists() or stored) and untold:
        raise SystemExit(f"nobody wrote {untold}")
    for name, tensor in (others | replaced).items():
        state[name].copy_(tensor.reshape(state[name].shape))
    ids = load_file(SOURCE / "expected.safetensors")["input_ids"]
    with torch.no_grad():
        logits = model(ids.reshape(1, -1)).logits[0]
    wanted = load_file(SOURCE / "expected.safetensors")["logits"]
    print(f"logits are {(logits - wanted).abs().max():.3g} from the source's, top token the same in "
          f"{(logits.argmax(-1) == wanted.argmax(-1)).sum()} of {len(wanted)}")
    save_file({"input_ids": ids, "logits": logits.contiguous()}, expected)


def run_in(stack, *arguments):
    home = STACK_DIR / "home"
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "HOME": str(home), "HF_HOME": str(home / "hub"), "TMPDIR": str(home / "tmp"),
                   "QWEN2_INTEROP_DIR": str(STACK_DIR),
                   "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "",
                   "PYTHONDONTWRITEBYTECODE": "1"}  # no __pycache__ in the tree
    subprocess.run([STACK_DIR / stack / "bin" / "python", __file__, *map(str, arguments)], env=environment, check=True)


def main():
    if sys.argv[1:2] == ["--make"]:
        return make(sys.argv[2], *map(pathlib.Path, sys.argv[3:]))
    if sys.argv[1:2] == ["--expect"]:
        return expect(*map(pathlib.Path, sys.argv[2:]))
    if sys.argv[1:2] == ["--bases"]:
        scratch, tensors = pathlib.Path(sys.argv[2]), dense_tensors()
        write_base(scratch / "plain", tensors, {})
        return write_base(scratch / "wide", widened(tensors),
                          {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4})
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    target, names = pathlib.Path(sys.argv[1]), sys.argv[2:] or list(MAKERS)
    unknown = sorted(set(names) - set(MAKERS))
    if unknown:
        raise SystemExit(f"make_foreign.py: unknown {unknown}, expected some of {list(MAKERS)}")
    failed = []
    with tempfile.TemporaryDirectory(prefix="qwen2-foreign-") as scratch:
        scratch = pathlib.Path(scratch)
        run_in("peers", "--bases", scratch)
        for base in ("plain", "wide"):  # both must compute what the source does
            (scratch / "nothing").mkdir(exist_ok=True)
            print(f"{base}: ", end="", flush=True)
            run_in("peers", "--expect", scratch / base, scratch / "nothing", scratch / "none", scratch / "expected")
        for name in names:
            folder, dense = target / name, scratch / f"{name}.dense"
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "checkpoint").mkdir(parents=True)
            base = scratch / MAKERS[name].base
            print(f"{name}: ", end="", flush=True)
            try:
                run_in(MAKERS[name].stack, "--make", name, base, folder / "checkpoint", dense)
                run_in("peers", "--expect", base, folder / "checkpoint", dense, folder / "expected.safetensors")
            except subprocess.CalledProcessError as error:
                failed.append(name)
                print(f"failed with {error.returncode}", flush=True)
                shutil.rmtree(folder)
    if failed:
        raise SystemExit(f"make_foreign.py: failed: {', '.join(failed)}")


if __name__ == "__main__":
    sys.exit(main())
