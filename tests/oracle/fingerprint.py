"""The fingerprint, written again from verify/fingerprint.md."""

import hashlib

import numpy as np
import xxhash

PANEL = 64


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def xxh3(*parts):
    hash_ = xxhash.xxh3_128()
    for part in parts:
        hash_.update(np.ascontiguousarray(part).tobytes())
    return hash_.hexdigest()


def panels(*arrays):
    """One digest for 64 outputs each; the arrays are [rows, outputs] and follow each other."""
    outputs = arrays[0].shape[1]
    for first in range(0, outputs, PANEL):
        parts = [a[:, first:first + PANEL] for a in arrays]
        yield xxh3(*(np.pad(p, ((0, 0), (0, PANEL - p.shape[1]))) for p in parts))


def lines(*parts):
    return "".join(f"{part}\n" for part in parts)


def matrix_values(weights):
    """weights: float32 [in, out]"""
    inputs, outputs = weights.shape
    return sha(lines("values", f"in_features {inputs}", f"out_features {outputs}", *panels(weights + np.float32(0))))


def quantised(linear, bits, group_size):
    """(values, qlf1) of a decode.Linear"""
    inputs, outputs = linear.codes.shape
    size = inputs if len(linear.scale) == 1 else group_size
    trivial = np.array_equal(linear.group, np.arange(inputs) // size)
    groups = "trivial" if trivial else xxh3(linear.group.astype("<u4"))
    other, word = whole_zeros(linear)
    head = lines("codes", f"in_features {inputs}", f"out_features {outputs}", f"bits {bits}", f"group_size {size}", f"map {groups}", word)
    decoded = panels(other, linear.scale.astype("<f4"), linear.codes.astype("u1"))
    if word == "zeros":
        weights = linear.scale[linear.group] * (linear.codes - other[linear.group].astype(np.int64)).astype(np.float32)
    else:
        exact = linear.scale[linear.group].astype(np.float64) * linear.codes + linear.offset[linear.group]
        weights = exact.astype(np.float32)
    return matrix_values(weights.astype(np.float32)), sha(head + lines(*decoded))


def whole_zeros(linear):
    """Zero points as uint16, or offsets where one of them is no whole zero point."""
    if linear.offset is None:
        return linear.zero.astype("<u2"), "zeros"
    scale, offset = linear.scale.astype(np.float64), linear.offset.astype(np.float64)
    zero = np.round(np.divide(-offset, scale, out=np.zeros_like(scale), where=scale != 0))
    if np.array_equal((-scale * zero).astype(np.float16).astype(np.float64), offset):
        return zero.astype("<u2"), "zeros"
    return linear.offset.astype("<f4"), "offsets"


def floats(weights):
    """(values, qlf1) of a float32 matrix [out, in] that is not quantised"""
    inputs, outputs = weights.shape[1], weights.shape[0]
    return matrix_values(weights.T), sha(lines("floats", f"in_features {inputs}", f"out_features {outputs}", *panels(weights.T)))


def vector(values):
    digest = sha(lines("tensor", "shape " + "x".join(str(d) for d in values.shape), xxh3(values.astype("<f4"))))
    return digest, digest


def model(entries):
    """{name: (values, qlf1)} -> (values, qlf1)"""
    entries = dict(entries)
    if "lm_head" in entries and entries["lm_head"][1] == entries["model.embed_tokens"][1]:
        del entries["lm_head"]
    names = sorted(entries, key=str.encode)
    return tuple(sha(lines(kind, *(f"{entries[n][i]} {n}" for n in names))) for i, kind in enumerate(("values", "qlf1")))


def of_checkpoint(config, settings, declared, linears, others):
    """`settings(prefix)`: (bits, group_size); `declared`: linears that have a bias by their architecture."""
    entries = {}
    for name, linear in linears.items():
        bits, group_size = settings(name)
        entries[name] = quantised(linear, bits, group_size)
    for name, tensor in others.items():
        prefix, _, part = name.rpartition(".")
        values = tensor.float32()
        if part == "weight" and values.ndim == 2:
            entries[prefix] = floats(values)
        elif part == "bias" and prefix not in declared and not values.any():
            continue
        elif not name.endswith("inv_freq"):
            entries[name] = vector(values)
    return model(entries)
