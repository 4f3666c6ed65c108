// The plots of the HTML report: inline SVG, coloured by the page's style (classes), readable in
// print. Their size grows with the number of layers, not of tensors.
#pragma once

#include <string>

#include "verify/audit.h"

namespace q2c {

std::string SizePlot(const AuditReport& report);       // bytes by part
std::string HistogramPlot(const AuditReport& report);  // shares of the codes, a row a layer; empty without --read-data
std::string ZeroPlot(const AuditReport& report);       // mean of (code - zero field), a row a layer; empty where nothing was sampled
std::string ScalePlot(const AuditReport& report);      // smallest to largest scale, a row a layer; empty without --read-data

}  // namespace q2c
