#include "formats/base/timings.h"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include <fmt/format.h>

namespace q2c {
namespace {

using Clock = std::chrono::steady_clock;

const Clock::time_point g_begin = Clock::now();
std::array<std::atomic<int64_t>, kStageNames.size()> g_spent{};  // ns

thread_local Stage t_stage = Stage::kNone;
thread_local Clock::time_point t_since;

// Charges what has passed to the stage this thread was in.
void Enter(Stage stage) {
  const Clock::time_point now = Clock::now();
  if (t_stage != Stage::kNone) {
    g_spent.at(static_cast<size_t>(t_stage)) += std::chrono::duration_cast<std::chrono::nanoseconds>(now - t_since).count();
  }
  t_stage = stage;
  t_since = now;
}

}  // namespace

Timed::Timed(Stage stage) : before_(t_stage) { Enter(stage); }
Timed::~Timed() { Enter(before_); }
Stage CurrentStage() { return t_stage; }

TimeSpent SpentSoFar() {
  TimeSpent spent;
  constexpr double kNanoseconds = 1e9;
  for (size_t i = 0; i < spent.seconds.size(); ++i) spent.seconds.at(i) = static_cast<double>(g_spent.at(i).load()) / kNanoseconds;
  spent.elapsed = std::chrono::duration<double>(Clock::now() - g_begin).count();
  spent.processors = std::max(1U, std::thread::hardware_concurrency());
  struct rusage usage {};
  if (::getrusage(RUSAGE_SELF, &usage) == 0) {
    constexpr double kMicroseconds = 1e6;
    const auto seconds = [](const struct timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / kMicroseconds; };
    spent.processor = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  }
  return spent;
}

std::string TimeSpent::LimitedBy() const {
  constexpr double kBusy = 0.85;  // of all processors
  constexpr double kMost = 0.6;   // of the elapsed time
  const auto of = [this](Stage stage) { return seconds.at(static_cast<size_t>(stage)); };
  if (processor > kBusy * processors * elapsed) return "the processors";
  if (of(Stage::kHash) > kMost * elapsed && of(Stage::kHash) < elapsed) return "SHA-256, which one processor takes of a file";
  if (of(Stage::kWrite) + of(Stage::kSync) + of(Stage::kRead) > kMost * elapsed) return "the disk";
  if (processor > kBusy * elapsed) return "work that one processor does alone";
  return "nothing in particular";
}

std::string TimeSpent::Text() const {
  double all = 0;
  for (const double stage : seconds) all += stage;
  std::string text = "time of all threads:";
  for (size_t i = 1; i < seconds.size(); ++i) {
    constexpr double kPercent = 100;
    text += fmt::format("{} {} {:.2f} s ({:.0f} %)", i == 1 ? "" : ",", kStageNames.at(i), seconds.at(i), all > 0 ? kPercent * seconds.at(i) / all : 0);
  }
  return text + fmt::format("\n{:.2f} s on the clock, {:.2f} s of {} processors; limited by {}\n", elapsed, processor, processors, LimitedBy());
}

}  // namespace q2c
