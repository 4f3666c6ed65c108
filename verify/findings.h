// The findings: everything an audit may say about a checkpoint. One table; what the readers
// refuse is in it under the id of their error. findings.md is the same table for people.
#pragma once

#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/json.h"
#include "formats/base/status.h"

namespace q2c {

enum class Severity { kNote, kWarning, kError };
std::string_view NameOf(Severity severity);

struct FindingKind {
  std::string_view id;
  Severity severity;
  Code code;                 // what the audit exits with: kFindings, or kMalformed, kRefused for what cannot be read
  std::string_view meaning;  // one line
  std::string_view fix;      // what to do; {in}, {out} and {target} stand for words of a command line
};
std::span<const FindingKind> FindingKinds();      // sorted by id
const FindingKind* FindKind(std::string_view id);  // null for an unknown id

struct Finding {
  const FindingKind* kind = nullptr;
  std::vector<std::string> tensors;  // or linears; the first few
  uint64_t count = 1;                // how many tensors, linears or files it is true of
  std::string message;               // subject, found, expected
};

// What one audit has found. Many of one kind are kept up to a limit and counted beyond it, so
// that a hostile file cannot fill the memory or the report.
class Findings {
 public:
  static constexpr size_t kKept = 40;  // of one kind
  static constexpr size_t kNames = 1000;  // tensors of one finding

  void Add(std::string_view id, std::string message, std::vector<std::string> tensors = {}, uint64_t count = 1);
  // What a reader refused. The names of tensors and linears are taken from the message. An id
  // that is not in the table becomes "unreadable".
  void Add(const Error& error);

  const std::vector<Finding>& all() const { return findings_; }  // in the order in which they were found
  bool Has(std::string_view id) const { return seen_.find(id) != seen_.end(); }
  // Worst first, then by id; what was not kept is counted in the message of the last of its kind.
  std::vector<Finding> Sorted() const;

 private:
  std::vector<Finding> findings_;
  std::map<std::string, uint64_t, std::less<>> seen_;  // id: how often
};

// What the process exits with: kOk if nothing is as bad as `fail_on`.
Code ExitCode(const std::vector<Finding>& findings, Severity fail_on);

// Words of a command line that a fix is made with.
struct FixWords {
  std::string in;
  std::string out;
  std::string target;
};
std::string FixText(const FindingKind& kind, const FixWords& words);
// The path as a shell takes it: quoted where needed.
std::string ShellWord(std::string_view word);

// --list-findings, and the document findings.md.
std::string FindingsText();
Json FindingsTableJson();
std::string FindingsMarkdown();

}  // namespace q2c
