// Processes of the zoo: who this one is, whether another one still lives, and children that
// do one piece of work each, so that a crash in one model takes no other down.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "formats/base/file.h"
#include "formats/base/json.h"

namespace q2c {

// A process, told apart from every other on any machine. Process ids mean something only
// within one boot of a kernel and one process-id namespace (containers have their own).
struct ProcessName {
  std::string host;        // for people
  std::string boot;        // boot id of the kernel
  std::string pid_space;   // process-id namespace
  uint64_t pid = 0;
  uint64_t started = 0;    // clock ticks after boot

  std::string Short() const;  // "host-pid-started": for file names and people
  Json ToJson() const;
  friend bool operator==(const ProcessName&, const ProcessName&) = default;
};
ProcessName ThisProcess();
// Nothing where the text is no name of a process.
std::optional<ProcessName> ParseProcessName(const Json& json);
// Can be said only of processes of this boot and namespace: "no" means that it may live elsewhere.
bool IsKnownDead(const ProcessName& process);

// Children at work. The calling process must have one thread only.
class Children {
 public:
  Children() = default;
  Children(const Children&) = delete;
  Children& operator=(const Children&) = delete;
  ~Children();  // kills and awaits what is left

  struct Ended {
    uint64_t id = 0;
    std::string text;         // what the work returned; empty if it did not come to its end
    int signal = 0;           // that ended it, or 0
    double cpu_seconds = 0;
    uint64_t peak_memory = 0;  // bytes
  };
  // Starts a child that returns the text of `work`. It dies with this process, ignores SIGINT
  // and SIGHUP – a terminal sends them to everybody – and has no standard input. Errors: kIo.
  Result<uint64_t> Start(const std::function<std::string()>& work);
  // Waits at most `milliseconds` for children to end; those that have. A signal ends the wait.
  std::vector<Ended> Wait(int milliseconds);
  void Signal(uint64_t id, int number) const;
  size_t count() const { return running_.size(); }

 private:
  struct Running {
    uint64_t id = 0;
    pid_t pid = 0;
    Fd pipe;
    std::string text;
  };
  std::vector<Running> running_;
  uint64_t next_ = 1;
};

}  // namespace q2c
