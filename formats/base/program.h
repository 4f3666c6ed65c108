// What every program does around its work: signals ask it to stop, its result goes to standard
// output, what goes wrong to standard error, and nothing that is thrown gets past it.
#pragma once

#include <atomic>
#include <string>
#include <string_view>

#include "formats/base/status.h"

namespace q2c {

// Runs a program of this name and returns its exit code. SIGINT, SIGTERM and SIGHUP are kept for
// StopSignal, and a closed pipe is an error of writing.
int RunProgram(std::string_view name, int (*run)(int argc, char** argv), int argc, char** argv);

// The last signal that asked the program to stop, or 0; and how many there were. The only global
// state: a signal has no other way to reach the work.
const std::atomic<int>& StopSignal();
const std::atomic<int>& StopCount();

inline int Exit(Code code) { return static_cast<int>(code); }
// Says the error, with `json` also as a document on standard output. Returns its exit code.
int ExitWith(const Error& error, bool json = false);
// A result that nobody received is no success. Returns the exit code.
int Print(const std::string& text, Code code);

}  // namespace q2c
