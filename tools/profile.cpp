// SPDX-License-Identifier: Apache-2.0
#include "tools/profile.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <system_error>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "daemon/runtime/state_directory.h"
#include "daemon/sched/split.h"

namespace iokv {
namespace {

using nlohmann::ordered_json;

std::string age_text(int64_t age_s) {
  if (age_s < 0) return "in the future";
  if (age_s < 7200) return fmt::format("{} minutes ago", age_s / 60);
  if (age_s < 2 * 86400) return fmt::format("{} hours ago", age_s / 3600);
  return fmt::format("{} days ago", age_s / 86400);
}

std::string time_text(double ns) {
  if (ns < 1e3) return fmt::format("{:.0f} ns", ns);
  if (ns < 1e6) return fmt::format("{:.4g} us", ns / 1e3);
  return fmt::format("{:.4g} ms", ns / 1e6);
}

std::string size_text(double bytes) {
  return bytes < (1 << 20) ? fmt::format("{:g} KiB", bytes / 1024) : fmt::format("{:g} MiB", bytes / (1 << 20));
}

// Multiply-adds count two.
double recompute_flops(const ProfileKey& key) { return 4.0 * key.hidden * key.kv_heads * key.head_dim; }

std::string link_lines(const Profile& profile) {
  if (profile.h2d.at(1) == 0) return "  link          none: operations read the host's memory in place\n";
  std::string text;
  auto direction = [&](const char* name, const Curve& curve) {
    text += fmt::format("  {:<13}", name);
    for (double bytes : {65536.0, 1048576.0, 16777216.0}) {
      text += fmt::format(" {:.3g} GB/s at {}{}", bytes / curve.at(bytes), size_text(bytes), bytes < 1e7 ? "," : "\n");
    }
  };
  direction("h2d", profile.h2d);
  direction("d2h", profile.d2h);
  text += fmt::format("  both ways     {:.3f} times as long each\n", profile.duplex);
  text += fmt::format("  pieces        {} for each run of bytes of a copy after the first\n", time_text(profile.piece_ns));
  return text;
}

std::string compute_lines(const ProfileKey& key, const Profile& profile) {
  std::string text;
  auto out = std::back_inserter(text);
  const Curve& recompute = profile.recompute;
  if (recompute.at(1) > 0) {
    for (double tokens : {64.0, 1024.0}) {
      fmt::format_to(out, "  {:<13} {} for {} tokens: {:.4g} tokens/s, {:.3g} GFLOP/s\n", tokens == 64 ? "recompute" : "",
                     time_text(recompute.at(tokens)), tokens, tokens / recompute.at(tokens) * 1e9,
                     recompute_flops(key) * tokens / recompute.at(tokens));
    }
  } else {
    text += "  recompute     impossible for this shape\n";
  }
  fmt::format_to(out, "  attention     {} for 1024 tokens: {:.3g} GB/s of K,V\n", time_text(profile.attend.at(1024)),
                 1024.0 * key.kv_bytes() / profile.attend.at(1024));
  constexpr double kRows = 64 * 1024;
  fmt::format_to(out, "                {} for 64 rows of a prompt with 1024: {:.3g} GFLOP/s\n",
                 time_text(profile.attention_ns(1024, kRows)),
                 4.0 * key.heads * key.head_dim * kRows / profile.attention_ns(1024, kRows));
  fmt::format_to(out, "  dense         {} for 1 row, {} for 16, {} for 256\n", time_text(profile.dense.at(1)),
                 time_text(profile.dense.at(16)), time_text(profile.dense.at(256)));
  fmt::format_to(out, "                {:.0f} % of it before attention\n", 100 * profile.project_share);
  fmt::format_to(out, "  head          {} for 1 row, {} for 16 (of a step, the others of a layer), of these {} before the layers\n",
                 time_text(profile.head.at(1)), time_text(profile.head.at(16)), time_text(profile.embed_ns));
  fmt::format_to(out, "  kept X        {} for 16 rows that are copied to blocks on the device\n",
                 time_text(profile.keep_x.at(16.0 * key.x_bytes())));
  fmt::format_to(out, "  contention    {:.2f}: recomputation and dense work {}\n", profile.contention,
                 profile.contention > 0.9   ? "take turns"
                 : profile.contention < 0.1 ? "run beside each other"
                                            : "slow each other");
  if (profile.host_attends()) {
    fmt::format_to(out, "  host          {} for 1024 tokens that it attends to: {:.3g} GB/s of K,V; copies take {:.2f} times as long\n",
                   time_text(profile.host_attend.at(1024)), 1024.0 * key.kv_bytes() / profile.host_attend.at(1024),
                   profile.host_slows_link);
    fmt::format_to(out, "                {} to hand over and merge 1 row, {} for 16; beside dense work {:.2f} of it is lost\n",
                   time_text(profile.exchange.at(1)), time_text(profile.exchange.at(16)), profile.host_contention);
  }
  return text;
}

// l of s cached tokens, for one sequence and for a batch.
std::string split_lines(const ProfileKey& key, const Profile& profile) {
  if (profile.h2d.at(1) == 0 || profile.recompute.at(1) == 0) return "";
  const CacheShape shape{key.layers, key.x_bytes(), key.kv_bytes()};
  std::string text = "  l of s cached tokens that are best sent as X and recomputed, sequences x s:\n";
  auto out = std::back_inserter(text);
  auto percent = [](uint64_t part, uint64_t whole) {
    return fmt::format("{:.1f} %", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
  };
  for (auto [sequences, tokens] : {std::pair<uint64_t, uint64_t>{1, 1024}, {8, 1024}, {32, 1024}, {4, 8192}}) {
    LayerWork work;
    work.rows = sequences;
    work.attended = work.products = work.kv_host = sequences * tokens;
    fmt::format_to(out, "    {:>2} x {:<5}  the paper's {:>7}, with X waited for {:>7}; streaming {:>7}\n", sequences, tokens,
                   percent(paper_split(profile, shape, tokens, sequences, PaperSchedule::row_by_row), tokens),
                   percent(paper_split(profile, shape, tokens, sequences, PaperSchedule::column_by_column), tokens),
                   percent(best_split(profile, shape, work, 0, work.kv_host), work.kv_host));
  }
  return text;
}

ordered_json json_of(const std::string& path, const StoredProfile& stored, int64_t now_unix_s) {
  const ProfileKey& key = stored.key;
  const MeasuredProfile& measured = stored.measured;
  ordered_json object = {{"file", path},
                         {"hash", profile_hash(measured.profile)},
                         {"device", key.device},
                         {"driver", key.driver},
                         {"dtype", key.dtype},
                         {"iokv", key.iokv},
                         {"link", key.link},
                         {"paced_bytes_per_s", key.paced_bytes_per_s},
                         {"host_threads", key.host_threads},
                         {"model",
                          {{"family", key.family},
                           {"layers", key.layers},
                           {"hidden", key.hidden},
                           {"heads", key.heads},
                           {"kv_heads", key.kv_heads},
                           {"head_dim", key.head_dim},
                           {"ffn", key.ffn},
                           {"vocab", key.vocab},
                           {"max_context", key.max_context}}},
                         {"measured_unix_s", stored.measured_unix_s},
                         {"age_s", now_unix_s - stored.measured_unix_s},
                         {"took_ns", measured.took_ns}};
  for (size_t i = 0; i < kProfileCurves.size(); ++i) {
    const Curve& curve = measured.profile.*kProfileCurves[i].curve;
    ordered_json samples = ordered_json::array();
    for (const Sample& sample : measured.samples[i]) samples.push_back({sample.size, sample.ns});
    object["curves"][kProfileCurves[i].name] = {{"least_ns", curve.least_ns},
                                                {"fixed_ns", curve.fixed_ns},
                                                {"each_ns", curve.each_ns},
                                                {"size", kProfileCurves[i].size_unit},
                                                {"misfit", misfit(curve, measured.samples[i])},
                                                {"samples", std::move(samples)}};
  }
  for (const ProfileNumber& named : kProfileNumbers) object[named.name] = measured.profile.*named.number;
  object["link_slows_dense"] = measured.link_slows_dense;
  object["dense_slows_link"] = measured.dense_slows_link;
  return object;
}

}  // namespace

Result<std::vector<FoundProfile>> find_profiles(const std::string& path, const std::string& state_directory) {
  std::vector<std::string> paths;
  if (!path.empty()) {
    paths.push_back(path);
  } else {
    const std::string directory = choose_state_directory(state_directory);
    if (directory.empty()) return error("no state directory: set --state-directory, $IOKV_STATE_DIRECTORY or $HOME");
    std::error_code failed;
    for (std::filesystem::directory_iterator entry(directory, failed), end; !failed && entry != end; entry.increment(failed)) {
      const std::string name = entry->path().filename().string();
      if (name.starts_with("profile-") && name.ends_with(".json")) paths.push_back(entry->path().string());
    }
    if (failed) return error(directory + ": " + failed.message() + "; iokvd measures a profile when it starts");
    if (paths.empty()) return error(directory + ": no profile yet; iokvd measures one when it starts");
    std::sort(paths.begin(), paths.end());
  }
  std::vector<FoundProfile> found;
  for (const std::string& one : paths) found.push_back({one, read_profile(one)});
  return found;
}

std::string profile_text(const std::string& path, const StoredProfile& stored, int64_t now_unix_s) {
  const ProfileKey& key = stored.key;
  const MeasuredProfile& measured = stored.measured;
  std::string text;
  auto out = std::back_inserter(text);
  fmt::format_to(out, "profile {} of {}{}{}\n", profile_hash(measured.profile), key.device, key.driver.empty() ? "" : ", driver ",
                 key.driver);
  fmt::format_to(out, "  model         {}, {} layers of {}, {} heads and {} of K,V of {}, ffn {}, vocabulary {}, {}\n", key.family,
                 key.layers, key.hidden, key.heads, key.kv_heads, key.head_dim, key.ffn, key.vocab, key.dtype);
  fmt::format_to(out, "  measured      {} by iokv {}, in {:.1f} s\n", age_text(now_unix_s - stored.measured_unix_s), key.iokv,
                 measured.took_ns / 1e9);
  fmt::format_to(out, "  file          {}\n", path);
  text += link_lines(measured.profile);
  text += compute_lines(key, measured.profile);
  if (key.link) {
    fmt::format_to(out, "  beside each other  dense work {:.2f} times as long beside h2d (in the figures above), h2d {:.2f} "
                        "times beside dense work (not)\n",
                   measured.link_slows_dense, measured.dense_slows_link);
  }
  text += split_lines(key, measured.profile);
  return text;
}

std::string profiles_json(const std::vector<FoundProfile>& found, int64_t now_unix_s) {
  ordered_json array = ordered_json::array();
  for (const FoundProfile& one : found) {
    if (one.profile) array.push_back(json_of(one.path, *one.profile, now_unix_s));
  }
  return array.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace iokv
