#!/usr/bin/python3
"""Pins the oracle itself to literal words, worked out by hand from the layout; run: test_oracle.py [-v]"""

import pathlib
import tempfile
import unittest

import numpy as np

import gguf
from check_fixture import Linear, check_linear, check_other, expected_names, q8_0, to_bfloat
from decode import OracleError, Tensor, awq_gemm, awq_gemv, awq_gemv_fast, bit_stream, compressed_tensors, gptq, marlin, mlx
from forward import rope_theta


def words(*values):
    return np.array(values, np.uint32)


def hexadecimal(text, dtype="<u4", columns=None):
    numbers = np.array([int(word, 16) for word in text.split()], dtype)
    return numbers.reshape(-1, columns or len(numbers))


def codes4(inputs, outputs):
    """The worked examples of the layouts: (5k + 3n + floor(kn / 4)) mod 16."""
    k, n = np.arange(inputs)[:, None], np.arange(outputs)[None]
    return (5 * k + 3 * n + k * n // 4) % 16


def zeros4(groups, outputs):
    g, n = np.arange(groups)[:, None], np.arange(outputs)[None]
    return 1 + (3 * n + 7 * g) % 15


def scales(groups, outputs):
    g, n = np.arange(groups)[:, None], np.arange(outputs)[None]
    return ((1 + n % 61 + 16 * (g % 8)) / 1024).astype(np.float16)


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
        part = {"qweight": tensor("I32", codes), "qzeros": tensor("I32", words(zero_word, zero_word)[:, None]),
                "scales": tensor("F16", scales)}
        if group is not None:
            part["g_idx"] = tensor("I32", np.array(group, np.int32))
        return part

    def test_v1_adds_one(self):
        w = gptq(self.linear(0x22222222), 4, "v1").weights()
        self.assertEqual(w[:, 0].tolist(), [-0.75, -0.5, -0.25, 0.0, 0.5, 1.0, 1.5, 2.0])

    def test_v2_does_not(self):
        w = gptq(self.linear(0x33333333), 4, "v2").weights()
        self.assertEqual(w[:, 0].tolist(), [-0.75, -0.5, -0.25, 0.0, 0.5, 1.0, 1.5, 2.0])

    def test_v1_field_of_all_ones_is_zero(self):
        w = gptq(self.linear(0x2222F222), 4, "v1").weights()
        self.assertEqual(w[3].tolist(), [0.0, 0.0, 0.0, 0.75, 0.0, 0.0, 0.0, 0.0])

    def test_group_map_is_followed(self):
        w = gptq(self.linear(0xFFFFFFFF, [1, 0, 1, 0, 1, 0, 1, 0]), 4, "v1").weights()
        self.assertEqual(w[:, 5].tolist(), [0.0, 0.25, 1.0, 0.75, 2.0, 1.25, 3.0, 1.75])


class Layouts(unittest.TestCase):
    """Words that the named projects' own packers made of the worked examples."""

    def same(self, linear, inputs, outputs, groups, zeros=True):
        self.assertTrue(np.array_equal(linear.codes, codes4(inputs, outputs)))
        self.assertTrue(np.array_equal(linear.scale, scales(groups, outputs).astype(np.float32)))
        self.assertTrue(np.array_equal(linear.zero, zeros4(groups, outputs) if zeros else np.full((groups, outputs), 8)))

    def test_compressed_tensors(self):
        packed = hexadecimal("""
            3e94fa50 b61c72d8 3e94fa50 b61c72d8 72d82d83 1c72c72d b61c61c7 50b60b61 c71c61b6 83d82d72 4f94e93e 0b50a5fa 1b50a4e9 f93e82c7 d71c60a5 b5fa4e83
            60a4e82c 60a4e82c 60a4e82c 60a4e82c a4e81b5f c60a3d71 e82c5f93 0a4e71b5 f92c5f82 3d6093c6 71a4d70a b5e81b4e 4d6092b5 a3c6f81b 092c5e71 6f82b4d7""", columns=4)
        part = {"weight_packed": tensor("I32", packed), "weight_scale": tensor("F16", np.ascontiguousarray(scales(2, 8).T)),
                "weight_shape": tensor("I64", np.array([8, 32])), "weight_zero_point": tensor("I32", words(0x741DA741, 0xEB852EB8)[None])}
        self.same(compressed_tensors(part, 4, 32, 8), 32, 8, 2)
        part["weight_shape"] = tensor("I64", np.array([32, 8]))
        with self.assertRaises(OracleError):
            compressed_tensors(part, 4, 32, 8)

    def test_compressed_tensors_3_bits_both_forms(self):
        codes = np.arange(64) % 8
        dense = np.packbits((codes[:, None] >> np.arange(3) & 1).astype(np.uint8).reshape(-1), bitorder="little").view("<u4")
        padded = [sum(int(c) << 3 * i for i, c in enumerate(codes[at:at + 10])) for at in range(0, 64, 10)]
        for packed, count in ((dense, 6), (words(*padded), 7)):
            self.assertEqual(len(packed), count)
            part = {"weight_packed": tensor("I32", packed[None]), "weight_scale": tensor("F16", np.ones((1, 1), np.float16)),
                    "weight_shape": tensor("I64", np.array([1, 64]))}
            self.assertEqual(compressed_tensors(part, 3, 64, 1).codes[:, 0].tolist(), codes.tolist())

    def test_awq_gemm(self):
        qweight = hexadecimal("""
            5f932c60 b5e882b5 2b4df81a 91a25e6f 0808c4c4 6e5d2a19 d4b2907e 4a17f6c3 b17d6c28 17c2c27d 8d2738d2 f38c9e27 6ae2048c c0376ad1 369cd036 acf1368b
            1357ace0 79ac0235 ef01789a 5566deef cccc4444 2211aa99 987610fe 0edb7643 7531eca8 db8642fd 41ebb852 b7401ea7 2ea6840c 84fbea51 fa5050b6 60b5b60b""", columns=1)
        part = {"qweight": tensor("I32", qweight), "qzeros": tensor("I32", words(0x71A44D71, 0xE82BB5E8)[:, None]), "scales": tensor("F16", scales(2, 8))}
        self.same(awq_gemm(part), 32, 8, 2)

    def test_awq_gemv(self):
        qweight = hexadecimal("3e94fa50 b61c72d8 3e94fa50 b61c72d8 3e94fa50 b61c72d8 3e94fa50 b61c72d8 "
                              "72d82d83 1c72c72d b61c61c7 50b60b61 fa50a50b 94fa4fa5 3e94e94f d83e83e9", columns=8)
        stored = np.zeros((2, 32), np.float16)
        stored[:, :2] = scales(2, 2).T
        part = {"qweight": tensor("I32", qweight), "scales": tensor("F16", stored),
                "qzeros": tensor("I32", hexadecimal("81 0 0 0 b4 0 0 0", columns=4))}
        self.same(awq_gemv(part, 32), 64, 2, 2)
        stored[1, 5] = 1
        part["scales"] = tensor("F16", stored)
        with self.assertRaises(OracleError):
            awq_gemv(part, 32)

    def test_awq_gemv_fast(self):
        qweight = hexadecimal("""
            8080 d5d5 2a2a 7f7f c4c4 1919 6e6e b3b3 8080 d5d5 2a2a 7f7f c4c4 1919 6e6e b3b3
            17d3 6c28 b17d 06c2 6c28 b17d 06c2 5b17 9f5b e4a0 39f5 8e4a e4a0 39f5 8e4a d39f
            ae26 f37b 59d1 ae26 048c 59d1 bf37 048c ae26 f37b 59d1 ae26 048c 59d1 bf37 048c
            3579 8ace e024 468a ace0 f135 579b bdf1 bdf1 0246 68ac ce02 2468 79bd df13 3579""", "<u2")
        offset = hexadecimal("9400 a000 a540 a900 b040 b230 b428 a900", "<u2", 4).view("<f2")
        rows = np.zeros((32, 4), np.float16)
        part = {"qweight": tensor("I16", qweight)}
        for name, values in (("scales", scales(2, 4)), ("qzeros", offset)):
            rows[:2] = values
            part[name] = tensor("F16", rows)
        self.same(awq_gemv_fast(part, 32), 64, 4, 2)
        rows[0, 0] *= np.float16(1.5)
        part["qzeros"] = tensor("F16", rows)
        with self.assertRaises(OracleError):
            awq_gemv_fast(part, 32)

    def test_marlin(self):
        stored = hexadecimal("""
            7fd50880 b3190880 f75d0880 3b910880 5d7fe62a 193b6ea2 d5f7e62a 91b36ea2
            3b19c4c4 7f5dc4c4 b391c4c4 f7d5c4c4 19b3a26e d57f2ae6 913ba26e 5df72ae6
            c2285bd3 066c5bd3 4aa05bd3 8ee45bd3 a0c2397d 6c8eb1f5 284a397d e406b1f5
            9f7d2828 d3b12828 17f52828 5b392828 7d1706c2 39d38e4a f59f06c2 b15b8e4a
            157bae26 59bfae26 9df3ae26 d137ae26 04269dd1 c0e21559 8cae9dd1 486a1559
            f3d18c8c 37158c8c 7b598c8c bf9d8c8c e28c7b37 ae48f3bf 6a047b37 26c0f3bf
            68cef179 ac02f179 e046f179 248af179 688ae024 244668ac e002e024 acce68ac
            5735e0e0 9b79e0e0 dfbde0e0 13f1e0e0 57f1df9b 13bd5713 df79df9b 9b355713
            cc2244cc 006644cc 44aa44cc 88ee44cc ccee4488 88aacc00 44664488 0022cc00
            ccaa4444 00ee4444 44224444 88664444 cc664400 8822cc88 44ee4400 00aacc88
            1f75971f 53b9971f 97fd971f db31971f 1f3197db dbfd1f53 97b997db 53751f53
            200ea8a8 6442a8a8 a886a8a8 eccaa8a8 20caa864 ec8620ec a842a864 640e20ec
            62c8ea62 a60cea62 ea40ea62 2e84ea62 7395fb3f 3f5173b7 fb1dfb3f b7d973b7
            84620c0c c8a60c0c 0cea0c0c 402e0c0c 953f1dd9 51fb9551 1db71dd9 d9739551
            b51b3db5 f95f3db5 3d933db5 71d73db5 d7f94e82 93b5c60a 5f714e82 1b3dc60a
            e8c66060 2c0a6060 604e6060 a4826060 0aa4713d c660f9b5 822c713d 4ee8f9b5""")
        for groups, gather in ((1, [0, 1, 8, 9, 16, 17, 24, 25]), (2, [0, 8, 16, 24, 32, 40, 48, 56])):
            part = {"B": tensor("I32", stored), "s": tensor("F16", np.zeros((groups, 64), np.float16))}
            self.assertTrue(np.array_equal(marlin(part).codes, codes4(16, 64)))
            linear = marlin({"B": tensor("I32", stored), "s": tensor("F16", np.arange(64, dtype=np.float16)[None].repeat(groups, 0))})
            self.assertEqual(linear.scale[0, gather].tolist(), list(range(8)))
            self.assertTrue((linear.zero == 8).all())

    def test_mlx(self):
        weight = hexadecimal("3e94fa50 b61c72d8 3e94fa50 b61c72d8 72d82d83 1c72c72d b61c61c7 50b60b61", columns=4)
        part = {"weight": tensor("U32", weight), "scales": tensor("F16", hexadecimal("1400 1800", "<u2", 1).view("<f2")),
                "biases": tensor("F16", hexadecimal("9400 a000", "<u2", 1).view("<f2"))}
        wanted = scales(1, 2).astype(np.float32) * (codes4(32, 2) - zeros4(1, 2)).astype(np.float32)
        self.assertTrue(np.array_equal(mlx(part, 4).weights(), wanted))


class Gguf(unittest.TestCase):
    FILE = bytes.fromhex("""
        4747554603000000010000000000000001000000000000001400000000000000
        67656e6572616c2e617263686974656374757265080000000500000000000000
        7177656e321300000000000000626c6b2e302e6174746e5f712e776569676874
        0200000020000000000000000200000000000000020000000000000000000000
        00140055aaff4499ee3388dd2277cc1166bb001873c81d62c81d62b71d62b70c
        62b70c5100000000000000000000000000000000000000000000000000000000""")

    def read(self, data):
        with tempfile.TemporaryDirectory() as temp:
            path = pathlib.Path(temp) / "tiny.gguf"
            path.write_bytes(data)
            return gguf.read_gguf(path)

    def test_tiny_file(self):
        values, tensors = self.read(self.FILE)
        self.assertEqual(values, {"general.architecture": "qwen2"})
        self.assertEqual([*tensors], ["blk.0.attn_q.weight"])
        linear = gguf.linear(tensors["blk.0.attn_q.weight"])
        self.assertTrue(np.array_equal(linear.codes, codes4(32, 2)))
        self.assertEqual(linear.scale.tolist(), [[1 / 1024, 2 / 1024]])
        self.assertTrue((linear.zero == 8).all())
        self.assertEqual([*gguf.hf_tensors(tensors)], ["model.layers.0.self_attn.q_proj.weight"])

    def test_damage_is_seen(self):
        for at, value in ((0, 0), (4, 2), (0x70, 1), (0x78, 32), (len(self.FILE) - 1, 1)):
            data = bytearray(self.FILE)
            data[at] = value
            with self.assertRaises(OracleError, msg=f"byte {at}"):
                self.read(bytes(data))
        for data in (self.FILE[:-32], self.FILE + bytes(32)):
            with self.assertRaises(OracleError):
                self.read(data)

    def test_other_blocks(self):
        one = codes4(32, 2)[:, 1]
        q41 = gguf.linear(Tensor("Q4_1", (1, 32), bytes.fromhex("001800a073c81d62c81d62b71d62b70c62b70c51")))
        self.assertTrue(np.array_equal(q41.weights()[:, 0], np.float32(2 / 1024) * (one - 4).astype(np.float32)))
        q80 = gguf.linear(Tensor("Q8_0", (1, 32), bytes.fromhex("0018ff0409fe0409fe0309fe0308fe0308fd0308fd0208fd0207fd0207fc0207fc01")))
        self.assertTrue(np.array_equal(q80.weights()[:, 0], np.float32(2 / 1024) * (one - 4).astype(np.float32)))


class Comparison(unittest.TestCase):
    def test_one_bit_is_seen(self):
        source = Linear(codes4(32, 8), scales(2, 8).astype(np.float32), zeros4(2, 8))
        check_linear("p", source, source, "F16")
        for field, change in (("codes", 1), ("zero", 1), ("scale", np.float32(2 ** -24))):
            other = Linear(source.codes.copy(), source.scale.copy(), source.zero.copy())
            getattr(other, field)[1, 3] += change
            with self.assertRaises(OracleError, msg=field):
                check_linear("p", source, other, "F16")

    def test_offset_has_to_be_the_nearest(self):
        source = Linear(codes4(32, 8), np.full((1, 8), 0.0101, np.float16).astype(np.float32), np.full((1, 8), 7))
        offset = (-source.scale * 7).astype(np.float16)
        check_linear("p", source, Linear(source.codes, source.scale, offset=offset.astype(np.float32)), "F16")
        with self.assertRaises(OracleError):
            check_linear("p", source, Linear(source.codes, source.scale, offset=np.nextafter(offset, np.float16(0)).astype(np.float32)), "F16")

    def test_bfloat_rounds_to_even(self):
        bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0xBF80FFFF], np.uint32)
        self.assertEqual((to_bfloat(bits.view(np.float32)).view(np.uint32) >> 16).tolist(), [0x3F80, 0x3F82, 0x3F81, 0xBF81])

    def test_q8_0_rounds_half_away(self):
        values = np.zeros((1, 32), np.float32)
        values[0, :4] = 127, 0.5, -0.5, 0.49
        scale, codes = q8_0(values)
        self.assertEqual((scale.tolist(), codes[0, :4].tolist()), ([[1.0]], [127, 1, -1, 0]))

    def test_cast_is_checked(self):
        half = tensor("F16", np.array([1.5, 2.5], np.float16))
        check_other("n", half, tensor("F32", np.array([1.5, 2.5], np.float32)), "F32")
        with self.assertRaises(OracleError):
            check_other("n", half, tensor("F32", np.array([1.5, 2.25], np.float32)), "F32")
        with self.assertRaises(OracleError):
            check_other("n", half, half, "F32")


class Config(unittest.TestCase):
    def test_each_reader_sees_its_own_rope_key(self):
        nested = {"rope_parameters": {"rope_theta": 1e6}}
        self.assertEqual([rope_theta(nested, r) for r in ("4", "5", "any")], [10000.0, 1e6, 1e6])
        self.assertEqual([rope_theta({"rope_theta": 5.0}, r) for r in ("4", "5", "any")], [5.0, 5.0, 5.0])

    def test_names_of_a_published_size(self):
        # 24 layers of 7 linears x 4 parts + 3 biases + 2 norms, then embedding and last norm: see Qwen2-0.5B
        config = {"model_type": "qwen2", "num_hidden_layers": 24, "tie_word_embeddings": True, "hidden_size": 896,
                  "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2}
        self.assertEqual(len(expected_names(config, "transformers-4.x")), 794)
        self.assertEqual(len(expected_names(config, "optimum-1.19")), 794 + 96)


if __name__ == "__main__":
    unittest.main()
