// SPDX-License-Identifier: Apache-2.0
// The file is one JSON object whose last member is the checksum of every byte before it; behind it there is only the
// object's end.
#include "daemon/runtime/profile_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include <nlohmann/json.hpp>

#include "daemon/model/digest.h"

namespace iokv {
namespace {

using nlohmann::ordered_json;

constexpr int kFormat = 3;
// 10 curves of at most 64 samples, each some 50 bytes: 20 KiB. More is not ours.
constexpr size_t kMostBytes = size_t{1} << 20;
constexpr const char* kChecksum = ",\n  \"checksum\": \"";

std::string hex(const Digest& digest, size_t digits) {
  std::string text;
  for (size_t i = 0; i < digits; ++i) text += "0123456789abcdef"[digest[i / 2] >> (i % 2 == 0 ? 4 : 0) & 15];
  return text;
}

// The object's text without its closing brace, and what makes it a file.
std::string sealed(const std::string& body) {
  DigestBuilder digest;
  digest.update(body);
  return body + kChecksum + hex(digest.value(), 32) + "\"\n}\n";
}

ordered_json json_of(const ProfileKey& key) {
  return {{"device", key.device},
          {"driver", key.driver},
          {"dtype", key.dtype},
          {"iokv", key.iokv},
          {"link", key.link},
          {"paced_bytes_per_s", key.paced_bytes_per_s},
          {"host_threads", key.host_threads},
          {"family", key.family},
          {"layers", key.layers},
          {"hidden", key.hidden},
          {"heads", key.heads},
          {"kv_heads", key.kv_heads},
          {"head_dim", key.head_dim},
          {"ffn", key.ffn},
          {"vocab", key.vocab},
          {"max_context", key.max_context}};
}

std::string body_of(const StoredProfile& stored) {
  const MeasuredProfile& measured = stored.measured;
  ordered_json file;
  file["format"] = kFormat;
  file["key"] = json_of(stored.key);
  file["measured_unix_s"] = stored.measured_unix_s;
  file["took_ns"] = measured.took_ns;
  ordered_json& curves = file["curves"];
  for (size_t i = 0; i < kProfileCurves.size(); ++i) {
    const Curve& curve = measured.profile.*kProfileCurves[i].curve;
    ordered_json samples = ordered_json::array();
    for (const Sample& sample : measured.samples[i]) samples.push_back({sample.size, sample.ns});
    curves[kProfileCurves[i].name] = {{"least_ns", curve.least_ns},
                                      {"fixed_ns", curve.fixed_ns},
                                      {"each_ns", curve.each_ns},
                                      {"size", kProfileCurves[i].size_unit},
                                      {"samples", std::move(samples)}};
  }
  for (const ProfileNumber& named : kProfileNumbers) file[named.name] = measured.profile.*named.number;
  file["link_slows_dense"] = measured.link_slows_dense;
  file["dense_slows_link"] = measured.dense_slows_link;
  std::string text = file.dump(2, ' ', false, ordered_json::error_handler_t::replace);
  text.resize(text.size() - 2);  // "\n}"
  return text;
}

double number(const ordered_json& object, const char* name, double least, double most = 1e18) {
  const double value = object.at(name).get<double>();
  if (!(value >= least && value <= most)) throw std::out_of_range(std::string(name) + " is out of range");
  return value;
}

ProfileKey key_of(const ordered_json& object) {
  ProfileKey key;
  object.at("device").get_to(key.device);
  object.at("driver").get_to(key.driver);
  object.at("dtype").get_to(key.dtype);
  object.at("iokv").get_to(key.iokv);
  object.at("link").get_to(key.link);
  key.paced_bytes_per_s = number(object, "paced_bytes_per_s", 0);
  object.at("family").get_to(key.family);
  auto count = [&](const char* name) { return static_cast<uint32_t>(number(object, name, 0, 1u << 31)); };
  key.host_threads = count("host_threads");
  key.layers = count("layers");
  key.hidden = count("hidden");
  key.heads = count("heads");
  key.kv_heads = count("kv_heads");
  key.head_dim = count("head_dim");
  key.ffn = count("ffn");
  key.vocab = count("vocab");
  key.max_context = count("max_context");
  return key;
}

// Throws what nlohmann_json throws, and std::out_of_range.
StoredProfile profile_of(const ordered_json& file) {
  StoredProfile stored;
  stored.key = key_of(file.at("key"));
  file.at("measured_unix_s").get_to(stored.measured_unix_s);
  MeasuredProfile& measured = stored.measured;
  measured.took_ns = number(file, "took_ns", 0);
  for (size_t i = 0; i < kProfileCurves.size(); ++i) {
    const ordered_json& curve = file.at("curves").at(kProfileCurves[i].name);
    measured.profile.*kProfileCurves[i].curve = {number(curve, "least_ns", 0), number(curve, "fixed_ns", 0),
                                                 number(curve, "each_ns", 0)};
    for (const ordered_json& sample : curve.at("samples")) {
      measured.samples[i].push_back({sample.at(0).get<double>(), sample.at(1).get<double>()});
    }
    if (measured.samples[i].size() > kMostSamples) throw std::out_of_range("too many samples");
  }
  for (const ProfileNumber& named : kProfileNumbers) {
    measured.profile.*named.number = number(file, named.name, named.least, named.most);
  }
  measured.link_slows_dense = number(file, "link_slows_dense", 1);
  measured.profile.link_slowdown = measured.link_slows_dense;
  measured.dense_slows_link = number(file, "dense_slows_link", 1);
  return stored;
}

Result<std::string> bytes_of(const std::string& path) {
  std::error_code failed;
  if (!std::filesystem::exists(path, failed)) return error(path + ": there is none yet");
  std::string text(kMostBytes + 1, 0);
  std::ifstream file(path, std::ios::binary);
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.eof() || file.bad()) return error(path + ": cannot be read, or is no profile");
  text.resize(static_cast<size_t>(file.gcount()));
  return text;
}

// Writes all of it to a new file beside `path`, whose name it returns in `beside`.
bool write_beside(const std::string& path, const std::string& text, std::string& beside) {
  beside = path + ".XXXXXX";
  const int descriptor = ::mkstemp(beside.data());
  if (descriptor < 0) {
    beside.clear();
    return false;
  }
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t some = ::write(descriptor, text.data() + written, text.size() - written);
    if (some < 0 && errno == EINTR) continue;
    if (some <= 0) break;
    written += static_cast<size_t>(some);
  }
  // Others may read it: `iokv profile` runs as whoever asks.
  const bool kept = written == text.size() && ::fchmod(descriptor, 0644) == 0 && ::fsync(descriptor) == 0;
  const int reason = errno;
  const bool closed = ::close(descriptor) == 0;
  if (!kept) errno = reason;
  return kept && closed;
}

std::string quoted(const std::string& text) { return "\"" + text + "\""; }

}  // namespace

ProfileKey profile_key(const DeviceInfo& device, const ModelSpec& spec) {
  ProfileKey key;
  key.device = device.name;
  key.driver = device.driver;
  key.dtype = name_of(device.compute);
  key.iokv = IOKV_VERSION;
  key.link = !device.host_addressable;
  key.paced_bytes_per_s = device.paced_bytes_per_s;
  key.host_threads = device.host_threads;
  key.family = spec.family;
  key.layers = spec.layers;
  key.hidden = spec.hidden;
  key.heads = spec.heads;
  key.kv_heads = spec.kv_heads;
  key.head_dim = spec.head_dim;
  key.ffn = spec.ffn;
  key.vocab = spec.vocab;
  key.max_context = spec.max_context;
  return key;
}

std::string profile_hash(const Profile& profile) {
  DigestBuilder digest;
  auto add = [&](double value) {
    char text[32];
    digest.update({text, static_cast<size_t>(std::snprintf(text, sizeof text, "%a", value))});
  };
  for (const ProfileCurve& named : kProfileCurves) {
    const Curve& curve = profile.*named.curve;
    for (double value : {curve.least_ns, curve.fixed_ns, curve.each_ns}) add(value);
  }
  for (const ProfileNumber& named : kProfileNumbers) add(profile.*named.number);
  add(profile.link_slowdown);
  return hex(digest.value(), 16);
}

std::string profile_path(const std::string& state_directory, const ProfileKey& key) {
  std::string kind, link;
  for (char letter : key.device.substr(0, key.device.find(' '))) {
    const bool plain = (letter >= 'a' && letter <= 'z') || (letter >= '0' && letter <= '9');
    if (letter >= 'A' && letter <= 'Z') kind += static_cast<char>(letter - 'A' + 'a');
    if (plain) kind += letter;
  }
  if (key.paced_bytes_per_s > 0) {
    char rate[32];
    std::snprintf(rate, sizeof rate, "-link%.3g", key.paced_bytes_per_s / 1e9);
    link = rate;
  }
  if (key.host_threads > 0) link += "-host" + std::to_string(key.host_threads);
  DigestBuilder shape;
  for (uint32_t count : {key.layers, key.hidden, key.heads, key.kv_heads, key.head_dim, key.ffn, key.vocab, key.max_context}) {
    shape.update(std::to_string(count));
  }
  return state_directory + "/profile-" + kind.substr(0, 16) + link + "-" + key.family + "-" + std::to_string(key.layers) + "x" +
         std::to_string(key.hidden) + "-" + key.dtype + "-" + hex(shape.value(), 8) + ".json";
}

Status write_profile(const std::string& path, const StoredProfile& profile) {
  const std::filesystem::path directory = std::filesystem::path(path).parent_path();
  std::error_code failed;
  std::filesystem::create_directories(directory, failed);
  if (failed) return error(directory.string() + ": " + failed.message());
  std::string beside;
  if (write_beside(path, sealed(body_of(profile)), beside) && ::rename(beside.c_str(), path.c_str()) == 0) return {};
  const int reason = errno;
  if (!beside.empty()) ::unlink(beside.c_str());
  return error(path + ": " + std::strerror(reason));
}

Result<StoredProfile> read_profile(const std::string& path) {
  IOKV_TRY_ASSIGN(const std::string text, bytes_of(path));
  const size_t end = text.rfind(kChecksum);
  if (end == std::string::npos || sealed(text.substr(0, end)) != text) {
    return error(path + ": is corrupt: its checksum is not that of its contents");
  }
  const ordered_json file = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!file.is_object()) return error(path + ": is corrupt: no JSON object");
  try {
    const int format = file.at("format").get<int>();
    if (format == kFormat) return profile_of(file);
    return error(path + ": has format " + std::to_string(format) + ", and this version reads " + std::to_string(kFormat));
  } catch (const std::exception& wrong) {
    return error(path + ": is corrupt: " + wrong.what());
  }
}

Status check_profile(const StoredProfile& profile, const ProfileKey& key, int64_t now_unix_s, int64_t life_s) {
  const ProfileKey& other = profile.key;
  if (other.device != key.device) {
    return error("is from another device, " + quoted(other.device) + ", and this is " + quoted(key.device));
  }
  if (other.driver != key.driver) {
    return error("was measured with driver " + quoted(other.driver) + ", and this is " + quoted(key.driver));
  }
  if (other.iokv != key.iokv) return error("was measured by iokv " + other.iokv + ", and this is " + key.iokv);
  if (other.dtype != key.dtype) return error("was measured in " + other.dtype + ", and the daemon computes in " + key.dtype);
  if (other.link != key.link) return error(key.link ? "was measured without a link" : "was measured over a link");
  if (other.paced_bytes_per_s != key.paced_bytes_per_s) return error("was measured over a link of another rate");
  if (other.host_threads != key.host_threads) {
    return error("was measured with " + std::to_string(other.host_threads) + " host threads that attend, and there are " +
                 std::to_string(key.host_threads));
  }
  if (other != key) return error("is of a model of another shape");
  const int64_t age_s = now_unix_s - profile.measured_unix_s;
  if (age_s > life_s) {
    return error("is stale: measured " + std::to_string(age_s / 86400) + " days ago, more than " +
                 std::to_string(life_s / 86400));
  }
  // A clock that was set back; a day of it may be a time zone.
  if (age_s < -86400) return error("is stale: measured in the future");
  return {};
}

}  // namespace iokv
