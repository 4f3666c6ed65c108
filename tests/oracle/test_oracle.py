#!/usr/bin/python3
"""Pins the oracle itself to literal words, worked out by hand from the layout; run: test_oracle.py [-v]"""

import unittest

import numpy as np

from check_fixture import expected_names
from decode import Tensor, bit_stream, decode_linear
from forward import rope_theta


def words(*values):
    return np.array(values, np.uint32)


def tensor(dtype, array):
    return Tensor(dtype, array.shape, array.tobytes())


class BitStream(unittest.TestCase):
    def test_four_bits_lowest_first(self):
        self.assertEqual(bit_stream(words(0x87654321)[None], 4).tolist(), [[1, 2, 3, 4, 5, 6, 7, 8]])

    def test_three_bits_cross_word_borders(self):
        # 32 codes 0 5 2 7 4 1 6 3 …: code 10 lies over words 0 and 1, code 21 over words 1 and 2
        stream = bit_stream(words(0xA878CEA8, 0xCEA878CE, 0x78CEA878)[None], 3)
        self.assertEqual(stream.tolist(), [[0, 5, 2, 7, 4, 1, 6, 3] * 4])

    def test_symmetric_words(self):
        for bits, v1, v2 in ((2, 0x55555555, 0xAAAAAAAA), (4, 0x77777777, 0x88888888), (8, 0x7F7F7F7F, 0x80808080)):
            middle = 2 ** (bits - 1)
            self.assertTrue((bit_stream(words(v1)[None], bits) == middle - 1).all())
            self.assertTrue((bit_stream(words(v2)[None], bits) == middle).all())


class Decode(unittest.TestCase):
    def linear(self, zero_word, group=None):
        """8 inputs, 8 outputs, 4 bits; code(k, n) = k, scale(g, n) = (g + 1) / 4; groups of 4 inputs."""
        codes = np.repeat(words(0x76543210)[None], 8, axis=1)
        scales = np.repeat(np.array([[0.25], [0.5]], np.float16), 8, axis=1)
        part = {"p.qweight": tensor("I32", codes), "p.qzeros": tensor("I32", words(zero_word, zero_word)[:, None]),
                "p.scales": tensor("F16", scales)}
        if group is not None:
            part["p.g_idx"] = tensor("I32", np.array(group, np.int32))
        return part

    def test_v1_adds_one(self):
        w = decode_linear(self.linear(0x22222222), "p", 4, 4, "v1")
        self.assertEqual(w[:, 0].tolist(), [-0.75, -0.5, -0.25, 0.0, 0.5, 1.0, 1.5, 2.0])

    def test_v2_does_not(self):
        w = decode_linear(self.linear(0x33333333), "p", 4, 4, "v2")
        self.assertEqual(w[:, 0].tolist(), [-0.75, -0.5, -0.25, 0.0, 0.5, 1.0, 1.5, 2.0])

    def test_v1_field_of_all_ones_is_zero(self):
        w = decode_linear(self.linear(0x2222F222), "p", 4, 4, "v1")
        self.assertEqual(w[3].tolist(), [0.0, 0.0, 0.0, 0.75, 0.0, 0.0, 0.0, 0.0])

    def test_group_map_is_followed(self):
        w = decode_linear(self.linear(0xFFFFFFFF, [1, 0, 1, 0, 1, 0, 1, 0]), "p", 4, 4, "v1")
        self.assertEqual(w[:, 5].tolist(), [0.0, 0.25, 1.0, 0.75, 2.0, 1.25, 3.0, 1.75])


class Config(unittest.TestCase):
    def test_each_reader_sees_its_own_rope_key(self):
        nested = {"rope_parameters": {"rope_theta": 1e6}}
        self.assertEqual([rope_theta(nested, r) for r in ("4", "5", "any")], [10000.0, 1e6, 1e6])
        self.assertEqual([rope_theta({"rope_theta": 5.0}, r) for r in ("4", "5", "any")], [5.0, 5.0, 5.0])

    def test_names_of_a_published_size(self):
        # 24 layers of 7 linears x 4 parts + 3 biases + 2 norms, then embedding and last norm: see Qwen2-0.5B
        config = {"model_type": "qwen2", "num_hidden_layers": 24, "tie_word_embeddings": True}
        self.assertEqual(len(expected_names(config, "transformers-4.x")), 794)
        self.assertEqual(len(expected_names(config, "optimum-1.19")), 794 + 96)


if __name__ == "__main__":
    unittest.main()
