// Where the time of a run goes: every thread says what it does, and the account of the process adds
// it up. What a stage calls that is a stage of its own counts only there.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace q2c {

enum class Stage : uint8_t { kNone, kRead, kDecode, kEncode, kHash, kWrite, kSync, kVerify };
inline constexpr std::array<std::string_view, 8> kStageNames = {"", "read", "decode", "encode", "hash", "write", "sync", "verify"};

// This thread is in `stage` as long as the object lives.
class Timed {
 public:
  explicit Timed(Stage stage);
  ~Timed();
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  Stage before_;
};
// What this thread is in, for threads that go on with its work.
Stage CurrentStage();

struct TimeSpent {
  std::array<double, kStageNames.size()> seconds{};  // of all threads together, by stage
  double elapsed = 0;                                // since the program began
  double processor = 0;                              // user and system, of all threads
  unsigned processors = 1;                           // that it may use

  // What more of would have made the run shorter.
  std::string LimitedBy() const;
  std::string Text() const;  // two lines
};
TimeSpent SpentSoFar();

}  // namespace q2c
