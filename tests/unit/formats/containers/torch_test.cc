// PyTorch files against what PyTorch says they hold, and against every rule of the format, one broken file each.
#include "formats/containers/torch.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "formats/checkpoint.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/zip.h"

namespace q2c {
namespace {

using namespace std::string_literals;
using test::ExpectError;
using test::LittleEndian;
using test::Must;
using test::Zip;

Result<TorchHeader> Parse(const std::string& file) { return ParseTorchHeader(SourceOf(AsBytes(file))); }

// ---- files that PyTorch wrote ----

class TorchFixtureTest : public testing::TestWithParam<const char*> {};

TEST_P(TorchFixtureTest, HoldsWhatPyTorchSays) {
  const std::string stem = std::string(Q2C_FIXTURES "/torch/") + GetParam();
  const test::TempFolder torch;
  const test::TempFolder plain;
  std::filesystem::copy(stem + ".bin", torch / "model.bin");
  std::filesystem::copy(stem + ".safetensors", plain / "model.safetensors");
  const Checkpoint read = Must(Checkpoint::Open(torch.path(), Links::kRefuse));
  const Checkpoint expected = Must(Checkpoint::Open(plain.path(), Links::kRefuse));
  ASSERT_EQ(read.tensors().size(), expected.tensors().size());
  for (const TensorInfo& tensor : expected.tensors()) {
    const TensorInfo* found = read.Find(tensor.name);
    ASSERT_NE(found, nullptr) << tensor.name;
    EXPECT_EQ(NameOf(found->dtype), NameOf(tensor.dtype)) << tensor.name;
    EXPECT_EQ(found->shape, tensor.shape) << tensor.name;
    EXPECT_TRUE(Must(SameBytes(read, *found, expected, tensor))) << tensor.name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, TorchFixtureTest, testing::Values("zip", "zip-protocol4", "legacy", "views", "views-legacy", "nested", "parameters", "float8", "no-checksums"));

TEST(TorchTest, NotesSayWhatIsPeculiar) {
  const auto warnings = [](const char* name) {
    std::string all;
    for (const std::string& warning : Must(Parse(test::ReadWhole(std::string(Q2C_FIXTURES "/torch/") + name))).warnings) all += warning + "\n";
    return all;
  };
  EXPECT_EQ(warnings("zip.bin"), "");
  EXPECT_NE(warnings("views.bin").find("share the storage of another one"), std::string::npos);
  EXPECT_NE(warnings("views-legacy.bin").find("views and are gathered"), std::string::npos);
  EXPECT_NE(warnings("nested.bin").find("under 'model'; 5 other entries"), std::string::npos);
  EXPECT_NE(warnings("no-checksums.bin").find("without checksums"), std::string::npos);
}

// ---- files that are made here ----

std::string Text(const std::string& text) { return "X" + LittleEndian(text.size(), 4) + text; }
std::string Number(uint64_t value) { return value < 256 ? "K" + LittleEndian(value, 1) : "\x8a\x08" + LittleEndian(value, 8); }
std::string Tuple(const std::vector<uint64_t>& numbers) {
  std::string bytes = "(";
  for (const uint64_t number : numbers) bytes += Number(number);
  return bytes + "t";
}

struct Tensor {
  std::string name = "t";
  std::string type = "IntStorage";
  std::string key = "0";
  uint64_t elements = 6;
  uint64_t offset = 0;
  std::vector<uint64_t> size = {2, 3};
  std::vector<uint64_t> stride = {3, 1};
  std::string view = {};  // sixth item of the id
};
std::string Id(const Tensor& t) { return "(" + Text("storage") + "ctorch\n" + t.type + "\n" + Text(t.key) + Text("cpu") + Number(t.elements) + t.view + "tQ"; }
std::string Rebuild(const Tensor& t) {
  return "ctorch._utils\n_rebuild_tensor_v2\n(" + Id(t) + Number(t.offset) + Tuple(t.size) + Tuple(t.stride) + "\x89" "ccollections\nOrderedDict\n)RtR";
}
std::string State(const std::string& items) { return "\x80\x02}(" + items + "u."; }
std::string State(const Tensor& t) { return State(Text(t.name) + Rebuild(t)); }
std::string File(const std::string& pickle, const std::string& storage = std::string(24, 'x')) { return Zip({{"m/data.pkl", pickle}, {"m/data/0", storage}, {"m/version", "3\n"}}); }
Result<TorchHeader> Try(const Tensor& t) { return Parse(File(State(t))); }

TEST(TorchTest, PlacesAndStrides) {
  const std::string file = File(State(Tensor()), "abcdefghijklmnopqrstuvwx");
  const TorchHeader plain = Must(Parse(file));
  ASSERT_EQ(plain.tensors.size(), 1U);
  EXPECT_EQ(plain.tensors[0].name, "t");
  EXPECT_EQ(plain.tensors[0].dtype, Dtype::kI32);
  EXPECT_EQ(plain.tensors[0].shape, Shape({2, 3}));
  EXPECT_EQ(plain.tensors[0].bytes, 24U);
  EXPECT_TRUE(plain.tensors[0].strides.empty());
  EXPECT_EQ(plain.tensors[0].offset, file.find("abcdef"));
  const auto one = [](const Tensor& t) { return Must(Try(t)).tensors.at(0); };
  const std::string shorter = File(State(Tensor{.offset = 2, .size = {4}, .stride = {1}}), "abcdefghijklmnopqrstuvwx");
  EXPECT_EQ(Must(Parse(shorter)).tensors.at(0).offset, shorter.find("abcdef") + 8);
  EXPECT_EQ(one({.size = {3, 2}, .stride = {1, 3}}).strides, Shape({1, 3}));
  EXPECT_EQ(one({.size = {5, 6}, .stride = {0, 1}}).strides, Shape({0, 1}));
  EXPECT_TRUE(one({.size = {1, 6}, .stride = {77, 1}}).strides.empty());  // a dimension of 1 has no stride to speak of
  EXPECT_TRUE(one({.size = {}, .stride = {}}).strides.empty());
  EXPECT_EQ(one({.size = {0, 3}, .stride = {3, 1}}).bytes, 0U);
  EXPECT_EQ(one({.offset = 9, .size = {0}, .stride = {1}}).bytes, 0U);
}

TEST(TorchTest, ElementsBeyondTheStorage) {
  for (const Tensor& t : std::vector<Tensor>{{.size = {2, 4}, .stride = {4, 1}}, {.offset = 1}, {.size = {2, 3}, .stride = {4, 1}}, {.offset = 6, .size = {1}, .stride = {1}}, {.size = {2}, .stride = {6}},
                                             {.offset = INT64_MAX, .size = {1}, .stride = {1}}, {.size = {2}, .stride = {INT64_MAX}}, {.size = {uint64_t{1} << 40U, 2}, .stride = {0, 1}}, {.size = {300'000}, .stride = {0}}}) {
    ExpectError(Try(t), Code::kMalformed, "torch-state", {"'t'"});
  }
  for (const Tensor& t : std::vector<Tensor>{{.offset = UINT64_MAX}, {.size = {UINT64_MAX, 1}}, {.stride = {UINT64_MAX, 1}}, {.size = {6}, .stride = {1, 1}}, {.size = {INT64_MAX, INT64_MAX}, .stride = {0, 0}}}) {
    ExpectError(Try(t), Code::kMalformed, "torch-state", {"'t'"});
  }
  ExpectError(Try({.size = Shape(65, 1), .stride = Shape(65, 1)}), Code::kMalformed, "torch-state");
}

TEST(TorchTest, StoragesThatAreNone) {
  for (const Tensor& t : std::vector<Tensor>{{.key = ""}, {.key = "../0"}, {.key = "1"}, {.elements = 5}, {.elements = 7}, {.elements = uint64_t{1} << 62U}, {.view = "K\x01"}, {.view = "(" + Text("1") + "K\x07K\x01t"}, {.view = "NN"}}) {
    ExpectError(Try(t), Code::kMalformed, "torch-state");
  }
  ExpectError(Try({.type = "QInt8Storage"}), Code::kRefused, "torch-unread", {"QInt8Storage"});
  ExpectError(Try({.type = "EvilStorage"}), Code::kMalformed, "pickle-code", {"'torch.EvilStorage'"});
  ExpectError(Try({.type = "float32"}), Code::kMalformed, "torch-state");
  // Two tensors that disagree on it.
  ExpectError(Parse(File(State(Text("a") + Rebuild({}) + Text("b") + Rebuild({.type = "LongStorage"})))), Code::kMalformed, "torch-state", {"24 bytes and 48 bytes"});
  // Something else where an id is expected.
  for (const char* id : {"K\x01Q", ")Q", "(NNNNNtQ"}) {
    ExpectError(Parse(File("\x80\x02" + std::string(id) + ".")), Code::kMalformed, "torch-state");
  }
}

TEST(TorchTest, StatesThatAreNone) {
  for (const std::string& pickle : {"N."s, ")."s, "}."s, "](K\x01" "e."s, State(Text("a") + "K\x01"), State(Text("deep") + "}(" + Text("model") + "}(" + Text("t") + Rebuild({}) + "uu"), Rebuild({}) + "."}) {
    ExpectError(Parse(File(pickle)), Code::kMalformed, "torch-state");
  }
  ExpectError(Parse(File(State("K\x01" + Rebuild({})))), Code::kMalformed, "torch-state");
  ExpectError(Parse(File(State(Text("t") + Rebuild({}) + Text("t") + Rebuild({})))), Code::kMalformed, "torch-state", {"'t'"});
  ExpectError(Parse(File(State(Tensor{.name = ""}))), Code::kMalformed, "torch-state");
  ExpectError(Parse(File(State(Tensor{.name = "\xed\xa0\x80"}))), Code::kMalformed, "torch-state");
  for (const std::string& usual : {"state_dict"s, "model_state_dict"s, "model"s, "module"s}) {
    EXPECT_EQ(Must(Parse(File(State(Text("a") + "N" + Text(usual) + "}(" + Text("t") + Rebuild({}) + "u")))).tensors.size(), 1U) << usual;
  }
  EXPECT_EQ(Must(Parse(File(State(Text("t") + Rebuild({}) + Text("_extra_state") + "K\x01")))).warnings.size(), 1U);
}

TEST(TorchTest, TensorsThatAreMadeInAnotherWay) {
  const std::string dict = "ccollections\nOrderedDict\n)R";
  const auto of = [&](const std::string& value) { return Parse(File(State(Text("t") + value))); };
  EXPECT_EQ(Must(of("ctorch._utils\n_rebuild_parameter\n(" + Rebuild({}) + "\x88" + dict + "tR")).tensors[0].bytes, 24U);
  EXPECT_EQ(Must(of("ctorch._utils\n_rebuild_tensor\n(" + Id({}) + "K\x00"s + Tuple({6}) + Tuple({1}) + "tR")).tensors[0].shape, Shape({6}));
  EXPECT_EQ(Must(of("ctorch._utils\n_rebuild_tensor\n(" + Id({}) + "K\x00"s + "ctorch\nSize\n(" + Tuple({6}) + "tR" + Tuple({1}) + "tR")).tensors[0].shape, Shape({6}));
  ExpectError(of("ctorch._utils\n_rebuild_tensor\n)R"), Code::kMalformed, "torch-state");
  ExpectError(of("ctorch._utils\n_rebuild_tensor\n(NK\x00))tR"s), Code::kMalformed, "torch-state");
  ExpectError(of("ctorch._utils\n_rebuild_parameter\n)R"), Code::kMalformed, "torch-state");
  ExpectError(of("ctorch._utils\n_rebuild_parameter\n(K\x01tR"), Code::kMalformed, "torch-state");
  // A conjugated view; parameters in parameters without end.
  ExpectError(of("ctorch._utils\n_rebuild_tensor_v2\n(" + Id({}) + "K\x00"s + Tuple({6}) + Tuple({1}) + "\x89" + dict + "}(" + Text("conj") + "\x88u" + "tR"), Code::kRefused, "torch-unread", {"'t'"});
  std::string wrapped = Rebuild({});
  for (int i = 0; i < 9; ++i) wrapped = "ctorch._utils\n_rebuild_parameter\n(" + wrapped + "tR";
  ExpectError(of(wrapped), Code::kMalformed, "torch-state");
  ExpectError(of("ctorch._utils\n_rebuild_sparse_tensor\n)R"), Code::kRefused, "torch-unread", {"_rebuild_sparse_tensor"});
}

TEST(TorchTest, MembersOfTheArchive) {
  const std::string pickle = State(Tensor());
  const std::string storage(24, 'x');
  const auto broken = [&](std::vector<test::ZipPart> parts, Code code, const std::string& id) { ExpectError(Parse(Zip(parts)), code, id); };
  EXPECT_EQ(Must(Parse(Zip({{"m/data.pkl", pickle}, {"m/data/0", storage}}))).tensors.size(), 1U);
  EXPECT_EQ(Must(Parse(Zip({{"m/data.pkl", pickle}, {"m/byteorder", "little"}, {"m/data/0", storage}, {"m/.data/x", "?"}, {"m/.y", "?"}, {"m/data/unused", "?"}}))).tensors.size(), 1U);
  broken({{"m/DATA.PKL", pickle}, {"m/data/0", storage}}, Code::kMalformed, "torch-archive");
  broken({{"data.pkl", pickle}, {"data/0", storage}}, Code::kMalformed, "torch-archive");
  broken({{"a/m/data.pkl", pickle}, {"a/m/data/0", storage}}, Code::kMalformed, "torch-archive");
  broken({{"m/data.pkl", pickle}, {"n/data/0", storage}}, Code::kMalformed, "torch-archive");
  broken({{"m/data.pkl", pickle}, {"n/data.pkl", pickle}, {"m/data/0", storage}}, Code::kMalformed, "torch-archive");
  broken({{"m/data.pkl", pickle}, {"m/data/0", storage}, {"m/extra", "?"}}, Code::kMalformed, "torch-archive");
  broken({{"m/data.pkl", pickle}, {"m/data/0", storage}, {"m/inner.zip", Zip({})}}, Code::kMalformed, "torch-archive");
  broken({{"m/data.pkl", pickle}, {"m/data/0", storage}, {"m/code/__torch__.py", "?"}}, Code::kRefused, "torch-unread");
  broken({{"m/data.pkl", pickle}, {"m/data/0", storage}, {"m/byteorder", "big"}}, Code::kRefused, "torch-unread");
  broken({{"m/data.pkl", pickle}, {"m/data/0", storage}, {"m/version", "11\n"}}, Code::kRefused, "torch-unread");
  broken({{"m/data.pkl", pickle}, {"m/data/0", storage}, {"m/version", "x"}}, Code::kMalformed, "torch-archive");
  broken({{"m/data.pkl", pickle + "."}, {"m/data/0", storage}}, Code::kMalformed, "torch-pickle");
  broken({{"m/data.pkl", pickle}, {"m/data/0", storage + "x"}}, Code::kMalformed, "torch-state");
  std::string flipped = Zip({{"m/data.pkl", pickle}, {"m/data/0", storage}});
  flipped[flipped.find("X\1\0\0\0t"s) + 5] = 'u';
  ExpectError(Parse(flipped), Code::kMalformed, "torch-checksum");
}

TEST(TorchTest, OtherFiles) {
  ExpectError(Parse("version https://git-lfs.github.com/spec/v1\n"), Code::kMalformed, "file-type", {"git lfs pull"});
  ExpectError(Parse(""), Code::kMalformed, "file-type");
  ExpectError(Parse(LittleEndian(2, 8) + "{}"), Code::kMalformed, "file-type", {"safetensors"});
  ExpectError(Parse(std::string(257, 'x') + "ustar"), Code::kRefused, "torch-unread");
  ExpectError(Parse("\x80\x02}."), Code::kMalformed, "file-type", {"pickle of something else"});
  ExpectError(Parse("\x80\x02" "cos\nsystem\n" + Text("true") + "\x85R."), Code::kMalformed, "pickle-code", {"'os.system'"});
  ExpectError(Parse("cposix\nsystem\n."), Code::kMalformed, "pickle-code", {"'posix.system'"});
}

// ---- the legacy form ----

const std::string kMagic = "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19."s;
const std::string kVersion = "\x80\x02M\xe9\x03."s;
std::string System(const std::string& little = "\x88") { return "\x80\x02}(" + Text("protocol_version") + "M\xe9\x03" + Text("little_endian") + little + "u."; }
std::string Keys(const std::vector<std::string>& keys) {
  std::string bytes = "\x80\x02](";
  for (const std::string& key : keys) bytes += Text(key);
  return bytes + "e.";
}
std::string Legacy(const std::string& state, const std::string& storages, const std::vector<std::string>& keys = {"0"}) { return kMagic + kVersion + System() + state + Keys(keys) + storages; }

TEST(TorchTest, LegacyPlaces) {
  const std::string storage = LittleEndian(6, 8) + "abcdefghijklmnopqrstuvwx";
  const std::string file = Legacy(State(Tensor()), storage);
  EXPECT_EQ(Must(Parse(file)).tensors[0].offset, file.find("abcdef"));
  // A view of a storage: the tensor's offset counts from the view's.
  const Tensor view = {.offset = 1, .size = {2}, .stride = {1}, .view = "(" + Text("9") + Number(3) + Number(3) + "t"};
  const std::string viewed = Legacy(State(view), storage);
  EXPECT_EQ(Must(Parse(viewed)).tensors[0].offset, viewed.find("abcdef") + 16);
  const Tensor beyond = {.offset = 3, .size = {1}, .stride = {1}, .view = "(" + Text("9") + Number(3) + Number(3) + "t"};
  ExpectError(Parse(Legacy(State(beyond), storage)), Code::kMalformed, "torch-state");
  // Pickles longer than what is read at first.
  const std::string long_state = State(Text("t") + Rebuild({}) + Text("note") + Text(std::string(3'000'000, 'n')));
  EXPECT_EQ(Must(Parse(Legacy(long_state, storage))).tensors.size(), 1U);
}

TEST(TorchTest, LegacyThatIsBroken) {
  const std::string state = State(Tensor());
  const std::string storage = LittleEndian(6, 8) + std::string(24, 'x');
  const std::string good = Legacy(state, storage);
  for (size_t size = kMagic.size(); size < good.size(); ++size) {
    const Result<TorchHeader> read = Parse(good.substr(0, size));
    ASSERT_FALSE(read.ok()) << size;
    EXPECT_EQ(read.error().code, Code::kMalformed);
    EXPECT_TRUE(read.error().id == "truncated") << read.error().Text();
  }
  ExpectError(Parse(good + "x"), Code::kMalformed, "trailing-bytes");
  ExpectError(Parse(Legacy(state, LittleEndian(7, 8) + std::string(28, 'x'))), Code::kMalformed, "torch-state");
  ExpectError(Parse(Legacy(state, LittleEndian(UINT64_MAX, 8) + std::string(24, 'x'))), Code::kMalformed, "torch-state");
  ExpectError(Parse(Legacy(state, storage, {"1"})), Code::kMalformed, "torch-state");
  ExpectError(Parse(Legacy(state, storage + storage, {"0", "0"})), Code::kMalformed, "torch-state");
  ExpectError(Parse(Legacy(state, "", {})), Code::kMalformed, "torch-state");
  ExpectError(Parse(kMagic + kVersion + System("\x89") + state + Keys({"0"}) + storage), Code::kRefused, "torch-unread");
  ExpectError(Parse(kMagic + kVersion + System("N") + state + Keys({"0"}) + storage), Code::kMalformed, "torch-state");
  ExpectError(Parse(kMagic + "\x80\x02M\xea\x03." + System() + state + Keys({"0"}) + storage), Code::kRefused, "torch-unread");
  ExpectError(Parse(kMagic + kVersion + System() + "\x80\x02" "cos\nsystem\n." + Keys({}) + ""), Code::kMalformed, "pickle-code", {"'os.system'"});
}

}  // namespace
}  // namespace q2c
