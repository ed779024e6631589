// SPDX-License-Identifier: Apache-2.0
// The counters as Prometheus reads them (text format 0.0.4), once or to whoever asks by HTTP. This is a process of its own
// and not a part of the daemon: what speaks HTTP with the network does not hold everybody's prompts, and the daemon, whose
// counters are mapped, does not notice that they are read.
#pragma once

#include <string>

#include "daemon/base/descriptor.h"
#include "daemon/base/result.h"
#include "tools/observer.h"

namespace iokv {

// Every counter with its meaning, times in seconds, and the times of tokens as histograms.
std::string metrics_text(const CounterSnapshot& snapshot);
// When no daemon answers: iokv_up 0, so that there is something to alert on.
std::string metrics_text_without_daemon();

// A stream socket at `path`, mode 0660, that nobody listens on yet. Error: what cannot be.
Result<Descriptor> listen_for_metrics(const std::string& path);

// Answers GET /metrics from the daemon at `socket_path` (empty: where clients look) until a signal ends the process: one
// request after the other, each within kRequestMs. Looks for a daemon again whenever there is none.
Status serve_metrics(const Descriptor& listener, const std::string& socket_path);

}  // namespace iokv
