"""C01-C15: config.json, quantize_config.json and the chat template."""

import json
import random

from case import Case
from checkpoint import edit_config, edit_json, edit_quantisation, edit_tensors, rename_to_model, write_sparse

CONFIG = r"config\.json"


def config(**keys):
    return lambda box: edit_config(box, lambda c: c.update(keys))


def quantisation(**keys):
    return lambda box: edit_quantisation(box, lambda q: q.update(keys))


def only_in_quantize_config(**keys):
    return lambda box: edit_json(box.input / "quantize_config.json", lambda q: q.update(keys))


def text(old, new, file="config.json"):
    def damage(box):
        path = box.input / file
        before = path.read_text()
        assert old in before
        path.write_text(before.replace(old, new, 1))
    return damage


def written(data):
    return lambda box: (box.input / "config.json").write_bytes(data(box) if callable(data) else data)


def nothing_but_weights(box):
    for path in box.input.iterdir():
        if path.suffix != ".safetensors":
            path.unlink()


def no_quantisation(box):
    edit_config(box, lambda c: c.pop("quantization_config"))
    (box.input / "quantize_config.json").unlink()


def dense(box):
    """The quantisation is declared, but every linear is stored in full."""
    generator = random.Random(3)

    def edit(tensors):
        for prefix in [name[:-len(".qweight")] for name in tensors if name.endswith(".qweight")]:
            rows, n = tensors[prefix + ".qweight"][1]
            for suffix in ("qweight", "qzeros", "scales", "g_idx"):
                tensors.pop(f"{prefix}.{suffix}")
            raw = bytes(b & 0xBF for b in generator.randbytes(n * rows * 8 * 2))
            tensors[prefix + ".weight"] = ("F16", [n, rows * 8], raw)
    edit_tensors(box.shard(), edit)


def larger_group(box):
    """One group for all inputs, said as a group size above every input count."""
    rename_to_model(box)
    quantisation(group_size=1024)(box)


def without_g_idx(**keys):
    def damage(box):
        edit_tensors(box.shard(), lambda tensors: [tensors.pop(name) for name in list(tensors) if name.endswith(".g_idx")])
        quantisation(**keys)(box)
    return damage


def g_idx_value(value):
    def edit(tensors):
        name = "model.layers.0.mlp.down_proj.g_idx"
        dtype, dimensions, raw = tensors[name]
        tensors[name] = (dtype, dimensions, value.to_bytes(4, "little", signed=True) + raw[4:])
    return lambda box: edit_tensors(box.shard(1), edit)


def remote_code(box):
    edit_config(box, lambda c: c.update(auto_map={"AutoModelForCausalLM": "modeling_qwen.Model"}, trust_remote_code=True))
    (box.input / "modeling_qwen.py").write_text(f"open({str(box.root / 'canary')!r}, 'w')\n")


def no_canary(box):
    return "the remote code was run" if (box.root / "canary").exists() else None


def template(data):
    return lambda box: (box.input / "chat_template.jinja").write_bytes(data)


def template_in_tokenizer_config(value):
    return lambda box: edit_json(box.input / "tokenizer_config.json", lambda t: t.update(chat_template=value))


def copied(name):
    def check(box):
        source, target = box.input / name, box.out / name
        return None if target.exists() and target.read_bytes() == source.read_bytes() else f"'{name}' is not in the output as it was"
    return check


def kept(key, value):
    def check(box):
        found = json.loads((box.out / "config.json").read_text()).get(key)
        return None if found == value else f"config.json has {key} = {found!r} instead of {value!r}"
    return check


def settings_restored(box):
    found = json.loads((box.out / "config.json").read_text()).get("quantization_config", {})
    wanted = {"bits": 4, "group_size": 128, "sym": True, "desc_act": False}
    return None if wanted.items() <= found.items() else f"the settings written are {found}"


def nested_quantisation(box):
    edit_config(box, lambda c: c.update(text_config={"quantization_config": c.pop("quantization_config")}))
    (box.input / "quantize_config.json").unlink()


CHAIN = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
LOOP = "{% for i in range(10**12) %}x{% endfor %}"
INJECTION = "\u0001\u00021, \"auto_map\": {}"  # how the text of a number could be smuggled through a string


def rows():
    yield Case("C01", "config.json missing", lambda box: (box.input / "config.json").unlink(), 65, CONFIG)
    yield Case("C01", "nothing but weights", nothing_but_weights, 65, CONFIG)
    yield Case("C01", "config.json empty", written(b""), 65, CONFIG)
    yield Case("C01", "config.json of 1 GB", lambda box: write_sparse(box.input / "config.json", 10 ** 9, b"{"), 65, CONFIG)
    yield Case("C01", "config.json in UTF-16", written(lambda box: (box.input / "config.json").read_text().encode("utf-16")), 65, CONFIG)
    yield Case("C01", "config.json is a directory", lambda box: ((box.input / "config.json").unlink(), (box.input / "config.json").mkdir()), 65, CONFIG)
    yield Case("C01", "config.json is an array", written(b"[]"), 65, CONFIG)
    yield Case("C01", "config.json nested 100000 deep", written(b'{"a":' * 100000 + b"1" + b"}" * 100000), 65, CONFIG)
    yield Case("C01", "config.json nested 65 deep", written(b'{"a":' * 65 + b"1" + b"}" * 65), 65, CONFIG + ".*|64")
    yield Case("C02", "bits twice in config.json", text('"bits": 4,', '"bits": 4, "bits": 4,'), 65, "bits")
    yield Case("C02", "bits twice in quantize_config.json", text('"bits": 4,', '"bits": 8, "bits": 4,', "quantize_config.json"), 65, "bits")
    yield Case("C02", "model_type twice", text('"model_type"', '"model_type": "qwen3", "model_type"'), 65, "model_type")
    # the tensors of a symmetric file without act-order show all the settings, so they may also be worked out
    yield Case("C03", "no quantisation settings, but codes", no_quantisation, (0, 65), "quanti", same=True, check=settings_restored)
    yield Case("C03", "quantisation settings, but full weights", dense, 65, "quantization_config|qweight", base="single")
    for key, value in (("bits", 8), ("group_size", 64), ("sym", False), ("desc_act", True)):
        yield Case("C04", f"the two files disagree on {key}", only_in_quantize_config(**{key: value}), 65, rf"(?=.*quantize_config\.json)(?=.*\bconfig\.json)(?=.*{key})")
    for value, exit_code in ((0, 65), (-1, 65), (5, 69), (64, 69), ("4", 65)):
        yield Case("C05", f"bits {value!r}", quantisation(bits=value), exit_code, "bits")
    yield Case("C05", "bits null", quantisation(bits=None), (0, 65), "bits", same=True, check=settings_restored)
    yield Case("C05", "bits 4.0", quantisation(bits=4.0), 0, same=True)
    yield Case("C05", "bits 8 over 4-bit tensors", quantisation(bits=8), 65, "bits|qweight")
    for value in (0, -2, 7, 96, 64, 1024, "128"):
        yield Case("C06", f"group_size {value!r}", quantisation(group_size=value), 65, "group|scales|qzeros")
    yield Case("C06", "group_size above all inputs, one group", larger_group, 0, base="perchannel", same=True)
    yield Case("C07", "hidden_size 2^40", config(hidden_size=2 ** 40), 65, "hidden_size")
    yield Case("C07", "10^9 layers", config(num_hidden_layers=10 ** 9), 65, "layers")
    yield Case("C07", "-1 layers", config(num_hidden_layers=-1), 65, "layers")
    yield Case("C07", "no heads", config(num_attention_heads=0), 65, "heads")
    yield Case("C07", "no key-value heads", config(num_key_value_heads=0), 65, "heads")
    yield Case("C07", "more key-value heads than heads", config(num_key_value_heads=4), 65, "heads|k_proj")
    yield Case("C07", "vocabulary smaller than the embedding", config(vocab_size=500), 65, "vocab_size|embed_tokens")
    yield Case("C07", "hidden_size missing", lambda box: edit_config(box, lambda c: c.pop("hidden_size")), 65, "hidden_size")
    yield Case("C07", "intermediate_size a string", config(intermediate_size="512"), 65, "intermediate_size")
    yield Case("C08", "desc_act, but no g_idx", without_g_idx(desc_act=True), 65, "g_idx", base="single")
    yield Case("C08", "no desc_act and no g_idx", without_g_idx(), 0, base="single", same=True)
    for label, value in (("4 of 4 groups", 4), ("-1", -1), ("INT_MIN", -2 ** 31), ("INT_MAX", 2 ** 31 - 1)):
        yield Case("C08", f"g_idx holds {label}", g_idx_value(value), 65, "down_proj.g_idx")
    yield Case("C09", "unknown model_type", config(model_type="mystery", architectures=["MysteryForCausalLM"]), 69, "mystery")
    yield Case("C09", "llama", config(model_type="llama", architectures=["LlamaForCausalLM"]), 69, "(?i:llama)")
    yield Case("C09", "class of another family", config(architectures=["LlamaForCausalLM"]), 69, "Llama")
    yield Case("C10", "remote code", remote_code, 0, same=True, check=no_canary)
    yield Case("C11", "template with __class__", template(CHAIN.encode()), 0, same=True, check=copied("chat_template.jinja"))
    yield Case("C11", "template that never ends", template_in_tokenizer_config(LOOP), 0, same=True, check=copied("tokenizer_config.json"))
    yield Case("C11", "template of 100 MB", lambda box: write_sparse(box.input / "chat_template.jinja", 10 ** 8, b"{{"), 0, same=True, check=copied("chat_template.jinja"))
    yield Case("C12", "two different templates", lambda box: (template(b"{{ a }}")(box), template_in_tokenizer_config("{{ b }}")(box)), 0,
               same=True, check=copied("chat_template.jinja"))
    yield Case("C13", "NaN", text('"use_cache": true', '"use_cache": true, "note": NaN'), 0, same=True)
    yield Case("C13", "-Infinity", text('"use_cache": true', '"use_cache": true, "note": [-Infinity, Infinity]'), 0, same=True)
    yield Case("C13", "comment", text('"use_cache": true', '"use_cache": true // note'), 65, CONFIG)
    yield Case("C13", "trailing comma", text('"use_cache": true,', '"use_cache": true,,'), 65, CONFIG)
    yield Case("C13", "comma before the brace", written(lambda box: (box.input / "config.json").read_bytes().rstrip()[:-1].rstrip() + b",}"), 65, CONFIG)
    yield Case("C13", "NaN inside a string", config(note="is NaN, or Infinity?"), 0, same=True, check=kept("note", "is NaN, or Infinity?"))
    yield Case("C13", "control characters in a string", config(note=INJECTION), 0, same=True, check=kept("note", INJECTION))
    yield Case("C13", "NaN where a size belongs", text('"hidden_size": 128', '"hidden_size": NaN'), 65, "hidden_size")
    yield Case("C14", "dtype against torch_dtype", config(dtype="bfloat16"), 65, "dtype")
    yield Case("C15", "quantisation settings in text_config", nested_quantisation, 0, same=True)
