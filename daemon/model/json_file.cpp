// SPDX-License-Identifier: Apache-2.0
#include "daemon/model/json_file.h"

#include <unordered_set>

#include "daemon/model/mapped_file.h"
#include "daemon/model/tensor_file.h"

namespace iokv {

using nlohmann::json;

Result<json> parse_json_object(std::span<const char> text, const std::string& what) {
  std::unordered_set<std::string> keys;
  std::string repeated;
  auto notice_keys = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth == 1 && event == json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.insert(key).second && repeated.empty()) repeated = shown(key);
    }
    return true;
  };
  json object = json::parse(text.begin(), text.end(), notice_keys, /*allow_exceptions=*/false);
  if (object.is_discarded()) return error(what + ": not valid JSON; fetch or convert the model again");
  if (!object.is_object()) return error(what + ": not a JSON object");
  if (!repeated.empty()) return error(what + ": the key " + repeated + " is there twice");
  return object;
}

Result<json> read_json_object(const std::string& path) {
  IOKV_TRY_ASSIGN(std::string text, read_text(path));
  return parse_json_object(text, path);
}

Result<std::string> read_text(const std::string& path) {
  IOKV_TRY_ASSIGN(MappedFile file, MappedFile::open(path));
  std::span<const std::byte> bytes = file.bytes();
  if (bytes.size() > kMaxJsonBytes) {
    return error(path + ": " + std::to_string(bytes.size()) + " bytes are more than such a file can have (" +
                 std::to_string(kMaxJsonBytes) + ")");
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace iokv
