// The table of findings and what becomes of many of them.
#include "verify/findings.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace q2c {
namespace {

TEST(FindingsTest, TableIsSortedAndSaysSomething) {
  const std::span<const FindingKind> kinds = FindingKinds();
  for (size_t i = 0; i < kinds.size(); ++i) {
    EXPECT_TRUE(i == 0 || kinds[i - 1].id < kinds[i].id) << kinds[i].id;
    EXPECT_GT(kinds[i].meaning.size(), 10U) << kinds[i].id;
    EXPECT_GT(kinds[i].fix.size(), 3U) << kinds[i].id;
    EXPECT_EQ(FindKind(kinds[i].id), &kinds[i]);
  }
  EXPECT_EQ(FindKind("no-such-id"), nullptr);
  EXPECT_EQ(FindKind("extra-zero-bias")->severity, Severity::kWarning);
  EXPECT_EQ(FindKind("zero-wrap")->severity, Severity::kError);
  EXPECT_EQ(FindKind("zero-label")->severity, Severity::kError);
}

TEST(FindingsTest, FixIsTheCommand) {
  EXPECT_EQ(FixText(*FindKind("extra-zero-bias"), {"in", "'o u t'", "awq"}), "qwen2-convert in 'o u t' --target=awq");
  EXPECT_EQ(ShellWord("a/b-1.x"), "a/b-1.x");
  EXPECT_EQ(ShellWord("it's"), "'it'\\''s'");
  EXPECT_EQ(ShellWord("$(rm)"), "'$(rm)'");
  EXPECT_EQ(ShellWord("a\x1b["), "$'a\\x1b\\x5b'");
}

TEST(FindingsTest, ErrorsOfReadersBringTheirNames) {
  Findings findings;
  findings.Add(Malformed("quant-shape", "tensor 'a.qzeros': shape [1], expected [2]; linear 'a'"));
  findings.Add(Malformed("some-new-id", "words"));
  ASSERT_EQ(findings.all().size(), 2U);
  EXPECT_EQ(findings.all()[0].tensors, (std::vector<std::string>{"a.qzeros", "a"}));
  EXPECT_EQ(findings.all()[1].kind->id, "unreadable");
  EXPECT_EQ(findings.all()[1].message, "words [some-new-id]");
}

TEST(FindingsTest, ManyOfOneKindAreCounted) {
  Findings findings;
  for (int i = 0; i < 100; ++i) findings.Add("tied-head", "again");
  findings.Add("zero-label", "worst");
  const std::vector<Finding> sorted = findings.Sorted();
  ASSERT_EQ(sorted.size(), Findings::kKept + 1);
  EXPECT_EQ(sorted.front().kind->id, "zero-label");
  EXPECT_EQ(sorted.back().message, "again; and 60 more of this kind");
}

TEST(FindingsTest, WhatCountsForTheExitCode) {
  const auto code = [](std::initializer_list<const char*> ids, Severity fail_on) {
    Findings findings;
    for (const char* id : ids) findings.Add(id, "x");
    return ExitCode(findings.Sorted(), fail_on);
  };
  EXPECT_EQ(code({}, Severity::kWarning), Code::kOk);
  EXPECT_EQ(code({"tied-head"}, Severity::kWarning), Code::kOk);
  EXPECT_EQ(code({"tied-head"}, Severity::kNote), Code::kOk);
  EXPECT_EQ(code({"extra-zero-bias"}, Severity::kWarning), Code::kFindings);
  EXPECT_EQ(code({"extra-zero-bias"}, Severity::kError), Code::kOk);
  EXPECT_EQ(code({"extra-zero-bias", "zero-label"}, Severity::kError), Code::kFindings);
  EXPECT_EQ(code({"truncated", "zero-label"}, Severity::kError), Code::kMalformed);
  EXPECT_EQ(code({"architecture", "zero-label"}, Severity::kError), Code::kFindings);
  EXPECT_EQ(code({"architecture", "tied-head"}, Severity::kError), Code::kRefused);
}

}  // namespace
}  // namespace q2c
