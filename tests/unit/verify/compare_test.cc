// The exact comparison must convict every kind of damage, whoever did it: a codec with a bug
// planted in it, or a byte changed in what was written.
#include "verify/compare.h"

#include <gtest/gtest.h>

#include <functional>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::Bytes;
using test::ExpectError;
using test::Must;

const std::string kQ = "model.layers.0.self_attn.q_proj";
const std::string kDown = "model.layers.0.mlp.down_proj";

// A converted checkpoint whose zeros were repacked (v2 fields under no label, target v1).
class Compare : public testing::Test {
 protected:
  void Convert(const test::TinyOptions& options = {.minus = 0, .symmetric = false}) {
    test::TinyModel model = test::MakeTiny(options);
    model.quant["checkpoint_format"] = options.minus == 0 ? "\"gptq_v2\"" : "\"gptq\"";
    model.Write(in_);
    JobOptions job = test::TinyJob(in_, out_);
    job.verify = VerifyLevel::kNone;
    const PlannedJob planned = Must(PlanJob(job));
    Must(RunJob(planned, job));
    manifest_ = Must(ReadManifest(test::ReadWhole(out_ + "/qwen2-convert.manifest.json")));
  }
  Result<Compared> Run(unsigned jobs = 1) {
    const Checkpoint source = Must(Checkpoint::Open(in_, Links::kRefuse));
    const Checkpoint output = Must(Checkpoint::Open(out_, Links::kRefuse));
    return CompareExact(source, output, manifest_, {jobs, nullptr, nullptr});
  }
  // Changes the bytes of one tensor of the output in place.
  void Change(const std::string& tensor, const std::function<void(Bytes*)>& change) {
    const Checkpoint output = Must(Checkpoint::Open(out_, Links::kRefuse));
    const TensorInfo* info = output.Find(tensor);
    ASSERT_NE(info, nullptr) << tensor;
    Bytes bytes = Must(output.ReadWhole(*info));
    change(&bytes);
    std::string file = test::ReadWhole(out_ + "/model.safetensors");
    std::memcpy(file.data() + info->offset, bytes.data(), bytes.size());
    test::WriteWhole(out_ + "/model.safetensors", file);
  }
  // Writes the output's file anew from an edited list of its tensors.
  void Rewrite(const std::function<void(std::vector<test::StoredTensor>*)>& edit) {
    std::vector<test::StoredTensor> tensors;
    {
      const Checkpoint output = Must(Checkpoint::Open(out_, Links::kRefuse));
      for (const TensorInfo& info : output.tensors()) tensors.push_back({info.name, std::string(NameOf(info.dtype)), info.shape, Must(output.ReadWhole(info))});
    }
    edit(&tensors);
    test::WriteWhole(out_ + "/model.safetensors", test::Safetensors(tensors));
  }
  void Lose(const std::string& name) {
    Rewrite([&](auto* tensors) { EXPECT_EQ(std::erase_if(*tensors, [&](const auto& t) { return t.name == name; }), 1U) << name; });
  }
  ManifestTensor& Entry(const std::string& name) { return *std::ranges::find(manifest_.tensors, name, &ManifestTensor::name); }

  const test::TempFolder folder_;
  const std::string in_ = folder_ / "in";
  const std::string out_ = folder_ / "out";
  Manifest manifest_;
};

TEST_F(Compare, SoundOutputPassesAndIsCounted) {
  for (const unsigned jobs : {1U, 4U}) {
    std::filesystem::remove_all(out_);
    Convert();
    const Compared compared = Must(Run(jobs));
    EXPECT_EQ(compared.linears, 7U);
    EXPECT_EQ(compared.weights, 64U * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 96);
    EXPECT_EQ(compared.tensors, 8U);  // embedding, head, three norms, three biases
  }
}

TEST_F(Compare, OneZeroFieldOffByOne) {
  for (const auto& [g, n] : std::vector<std::pair<uint64_t, uint64_t>>{{0, 0}, {1, 7}, {2, 63}}) {
    std::filesystem::remove_all(out_);
    Convert();
    Change(kDown + ".qzeros", [group = g, output = n](Bytes* qzeros) {
      const uint32_t field = test::GetZeroField(*qzeros, 4, 64, group, output);
      test::PutZeroField(qzeros, 4, 64, group, output, (field + 1) & 15U);
    });
    ExpectError(Run(), Code::kFindings, "exact-linear", {kDown, "zero point", fmt::format("group {}, output {}", g, n)});
  }
}

TEST_F(Compare, CodesOfTwoOutputsSwapped) {
  Convert();
  Change(kQ + ".qweight", [](Bytes* qweight) {
    uint64_t n = 1;  // some output whose code of the last input differs from that of output 0
    while (test::GetCode(*qweight, 4, 64, 63, n) == test::GetCode(*qweight, 4, 64, 63, 0)) ++n;
    const uint32_t a = test::GetCode(*qweight, 4, 64, 63, 0);
    test::PutCode(qweight, 4, 64, 63, 0, test::GetCode(*qweight, 4, 64, 63, n));
    test::PutCode(qweight, 4, 64, 63, n, a);
  });
  ExpectError(Run(), Code::kFindings, "exact-linear", {kQ, "code of input 63, output 0"});
}

TEST_F(Compare, AnyBitOfAnyPartOfALinear) {
  Convert();
  const std::string sound = test::ReadWhole(out_ + "/model.safetensors");
  const Checkpoint output = Must(Checkpoint::Open(out_, Links::kRefuse));
  for (const char* part : {"qweight", "qzeros", "scales", "g_idx"}) {
    const TensorInfo info = *output.Find(kDown + "." + part);
    test::Random random(9);
    for (int i = 0; i < 20; ++i) {
      std::string file = sound;
      file[info.offset + random.Below(static_cast<uint32_t>(info.bytes))] ^= static_cast<char>(1U << random.Below(8));
      test::WriteWhole(out_ + "/model.safetensors", file);
      ExpectError(Run(), Code::kFindings, "exact-linear", {kDown});
    }
  }
}

TEST_F(Compare, SignOfAScaleAndOneGroupEntry) {
  Convert();
  Change(kQ + ".scales", [](Bytes* scales) { (*scales)[1] ^= std::byte{0x80}; });
  ExpectError(Run(), Code::kFindings, "exact-linear", {kQ, "scale"});
  std::filesystem::remove_all(out_);
  Convert();
  Change(kQ + ".g_idx", [](Bytes* g_idx) { (*g_idx)[4 * 40] = std::byte{0}; });  // input 40 from group 1 to 0
  ExpectError(Run(), Code::kFindings, "exact-linear", {kQ, "input 40", "group 1"});
}

TEST_F(Compare, OtherTensorsByteForByte) {
  for (const char* name : {"model.embed_tokens.weight", "model.norm.weight", "model.layers.0.self_attn.k_proj.bias", "lm_head.weight"}) {
    std::filesystem::remove_all(out_);
    Convert();
    Change(name, [](Bytes* bytes) { bytes->back() ^= std::byte{1}; });
    ExpectError(Run(), Code::kFindings, "exact-tensor", {name});
  }
}

TEST_F(Compare, StrippedBiasThatWasNotZero) {
  test::TinyModel model = test::MakeTiny({.minus = 0, .symmetric = false});
  Convert();
  Bytes& bias = model.At(kDown + ".bias").bytes;
  for (const size_t at : {size_t{0}, bias.size() - 2}) {
    bias[at] = std::byte{1};  // the smallest half there is
    model.Write(in_);
    ExpectError(Run(), Code::kFindings, "exact-dropped", {kDown + ".bias"});
    bias[at] = std::byte{0};
  }
  bias[1] = std::byte{0x80};  // minus zero is zero
  model.Write(in_);
  Must(Run());
}

TEST_F(Compare, MadeBiasThatIsNotZero) {
  test::TinyModel model = test::MakeTiny({.zero_biases = false});
  model.Write(in_);
  JobOptions job = test::TinyJob(in_, out_, "optimum-1.19");
  job.verify = VerifyLevel::kNone;
  Must(RunJob(Must(PlanJob(job)), job));
  manifest_ = Must(ReadManifest(test::ReadWhole(out_ + "/qwen2-convert.manifest.json")));
  Must(Run());
  Change(kDown + ".bias", [](Bytes* bytes) { (*bytes)[10] = std::byte{1}; });
  ExpectError(Run(), Code::kFindings, "exact-tensor", {kDown + ".bias", "not zero"});
}

TEST_F(Compare, LostTensor) {
  // Every tensor of the output, one at a time.
  Convert();
  std::vector<std::string> names;
  for (const ManifestTensor& tensor : manifest_.tensors) names.push_back(tensor.name);
  const std::string sound = test::ReadWhole(out_ + "/model.safetensors");
  for (const std::string& name : names) {
    test::WriteWhole(out_ + "/model.safetensors", sound);
    Lose(name);
    const Result<Compared> run = Run();
    ASSERT_FALSE(run.ok()) << name;
    EXPECT_EQ(run.error().code, Code::kFindings) << run.error().Text();
    EXPECT_NE(run.error().message.find(name), std::string::npos) << run.error().Text();
  }
}

TEST_F(Compare, TensorOfAnotherShapeOrType) {
  for (const char* name : {"model.norm.weight", "model.layers.0.mlp.down_proj.scales", "model.layers.0.mlp.down_proj.qzeros"}) {
    std::filesystem::remove_all(out_);
    Convert();
    Rewrite([&](auto* tensors) {
      auto& tensor = *std::ranges::find(*tensors, std::string(name), &test::StoredTensor::name);
      tensor.shape.push_back(1);
    });
    const Result<Compared> run = Run();
    ASSERT_FALSE(run.ok()) << name;
    EXPECT_EQ(run.error().code, Code::kFindings) << run.error().Text();
  }
}

TEST_F(Compare, CodesUnderAnotherDtype) {
  // The same bytes, called floats: no loader would take them for codes.
  Convert();
  Rewrite([](auto* tensors) { std::ranges::find(*tensors, kDown + ".qweight", &test::StoredTensor::name)->dtype = "F32"; });
  ExpectError(Run(), Code::kFindings, "exact-tensor", {kDown + ".qweight"});
}

TEST_F(Compare, ExtraTensor) {
  Convert();
  Rewrite([](auto* tensors) { tensors->push_back({"model.layers.0.mlp.up_proj.bias", "F16", {96}, Bytes(192)}); });
  ExpectError(Run(), Code::kFindings, "exact-unknown", {"model.layers.0.mlp.up_proj.bias"});
}

TEST_F(Compare, ManifestThatLies) {
  Convert();
  const Manifest sound = manifest_;
  // An input tensor that is mentioned nowhere.
  std::erase_if(manifest_.dropped, [](const ManifestDrop& drop) { return drop.name == kDown + ".bias"; });
  ExpectError(Run(), Code::kFindings, "exact-lost", {kDown + ".bias"});
  manifest_ = sound;
  // One tensor said to come from another.
  Entry("model.norm.weight").sources = {"model.layers.0.input_layernorm.weight"};
  manifest_.dropped.push_back({"model.norm.weight", "user", ""});
  ExpectError(Run(), Code::kFindings, "exact-tensor", {"model.norm.weight"});
  manifest_ = sound;
  // A weight called a zero bias, a repetition, a buffer; a reason nobody knows.
  for (const auto& [action, same_as] : std::vector<std::pair<std::string, std::string>>{{"zero-bias", ""}, {"tied-head", "model.embed_tokens.weight"}, {"tied-head", "nothing"},
                                                                                        {"derived-buffer", ""}, {"just-so", ""}}) {
    manifest_.dropped.push_back({"lm_head.weight", action, same_as});
    ExpectError(Run(), Code::kFindings, "exact-dropped", {"lm_head.weight"});
    manifest_ = sound;
  }
  manifest_.linears[0].bits = 0;
  ExpectError(Run(), Code::kFindings, "exact-linear");
}

// A bug planted in the codec: the digests are those of the wrong bytes, so only the exact
// comparison can tell. The run must fail and leave nothing.
template <int kBug>
Status WrongZeros(const QuantLinear& linear, MutableBytes out) {
  Bytes qzeros(out.size());
  for (uint64_t g = 0; g < linear.shape.groups; ++g) {
    for (uint64_t n = 0; n < linear.shape.out_features; ++n) {
      uint32_t field = (linear.zeros[g * linear.shape.out_features + n] - 1U) & 15U;
      if (kBug == 1 && g == 0 && n == 5) field = (field + 1) & 15U;  // one field
      if (kBug == 2) field = (field + 1) & 15U;                     // the other convention
      const uint64_t place = kBug == 3 ? n ^ 1U : n;                // neighbours swapped
      test::PutZeroField(&qzeros, linear.shape.bits, linear.shape.out_features, g, place, field);
    }
  }
  std::ranges::copy(qzeros, out.begin());
  return {};
}

TEST_F(Compare, BugInTheCodecIsNoticedAndNothingIsLeft) {
  test::MakeTiny({.minus = 0, .symmetric = false}).Write(in_);
  int bug = 0;
  for (const auto encode : {WrongZeros<0>, WrongZeros<1>, WrongZeros<2>, WrongZeros<3>}) {
    JobOptions job = test::TinyJob(in_, out_);
    PlannedJob planned = Must(PlanJob(job));
    PartCodec wrong = *std::ranges::find(planned.plan.linears.begin()->second.layout->parts, "qzeros", &PartCodec::suffix);
    wrong.encode = encode;
    for (PlannedTensor& tensor : planned.plan.tensors) {
      if (tensor.name == kDown + ".qzeros") tensor.part = &wrong;
    }
    const JobReport report = Must(RunJob(planned, job));
    if (bug++ == 0) {  // the stand-in itself is right
      EXPECT_TRUE(report.findings.empty());
      EXPECT_TRUE(test::Exists(out_));
      std::filesystem::remove_all(out_);
      continue;
    }
    const auto found = std::ranges::find(report.findings, std::string("exact-linear"), &Error::id);
    ASSERT_NE(found, report.findings.end());
    ExpectError(Status(*found), Code::kFindings, "exact-linear", {kDown, "zero point"});
    EXPECT_EQ(test::Names(folder_.path()), std::vector<std::string>{"in"});
  }
}

// Channels of zeros, and channels in another order.
class CompareChannels : public Compare {
 protected:
  void Pad() {
    test::MakeTiny({.symmetric = false}).Write(in_);
    JobOptions job = test::TinyJob(in_, out_);
    job.verify = VerifyLevel::kNone;
    job.pad_intermediate = 128;
    const PlannedJob planned = Must(PlanJob(job));
    Must(RunJob(planned, job));
    manifest_ = Must(ReadManifest(test::ReadWhole(out_ + "/qwen2-convert.manifest.json")));
  }
};

TEST_F(CompareChannels, PaddingIsSeenToBeZero) {
  Pad();
  const Compared compared = Must(Run());
  EXPECT_EQ(compared.padded, 3U);
  EXPECT_EQ(compared.weights, 64U * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 96);
  // One code beyond the source's inputs, and one beyond its outputs.
  for (const auto& [linear, outputs, k, n] : {std::tuple(kDown, 64U, 97U, 5U), std::tuple(std::string("model.layers.0.mlp.up_proj"), 128U, 3U, 100U)}) {
    std::filesystem::remove_all(out_);
    Pad();
    Change(linear + ".qweight", [out = outputs, input = k, output = n](Bytes* qweight) { test::PutCode(qweight, 4, out, input, output, (test::GetCode(*qweight, 4, out, input, output) + 1) & 15U); });
    ExpectError(Run(), Code::kFindings, "exact-padding", {linear, fmt::format("input {}, output {}", k, n)});
  }
  // What was there is compared as ever.
  std::filesystem::remove_all(out_);
  Pad();
  Change(kDown + ".qweight", [&](Bytes* qweight) { test::PutCode(qweight, 4, 64, 95, 5, (test::GetCode(*qweight, 4, 64, 95, 5) + 1) & 15U); });
  ExpectError(Run(), Code::kFindings, "exact-linear", {kDown, "code of input 95, output 5"});
}

TEST_F(CompareChannels, AnOrderThatIsNotWhatIsSaid) {
  Convert({});
  ManifestLinear& down = *std::ranges::find(manifest_.linears, kDown, &ManifestLinear::name);
  down.order_of = kDown;
  down.orders_inputs = true;
  Must(Run());  // its groups are in order: the order changes nothing
  ManifestLinear& up = *std::ranges::find(manifest_.linears, "model.layers.0.mlp.up_proj", &ManifestLinear::name);
  up.order_of = kQ;
  ExpectError(Run(), Code::kFindings, "exact-order", {"up_proj", kQ});
  up.order_of.clear();
  down.order_of = "model.layers.0.mlp.up_proj";
  ExpectError(Run(), Code::kFindings, "exact-order", {kDown});
}

}  // namespace
}  // namespace q2c
