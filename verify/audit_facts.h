// The facts about a checkpoint that loaders differ in: the input of the forecast.
#pragma once

#include "verify/checks/checks.h"
#include "verify/maker.h"

namespace q2c {

// `unreadable` is what a file of weights or a config was refused for, or empty.
Json FactsOf(const CheckInput& input, const Findings& findings, const Maker& maker, const std::string& unreadable);

}  // namespace q2c
