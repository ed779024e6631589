// SPDX-License-Identifier: Apache-2.0
// What Hugging Face transformers makes of a row of logits (sampling.json, written by scripts/make_sampling_golden.py), and
// whether a backend draws from just that: the token in which the draw's uniform number falls, by the running sum of
// transformers' probabilities in the order of ids.
#pragma once

#include <algorithm>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "daemon/backend/backend.h"
#include "daemon/backend/cpu/philox.h"

namespace iokv::test {

struct OracleCase {
  std::string text;                               // for messages
  std::set<std::string> names;                    // of what it sets
  SampleParams params;
  uint32_t row = 0;                               // of the logits
  std::vector<TokenBias> biases;
  std::vector<uint32_t> mask;
  std::vector<std::pair<int32_t, double>> kept;   // tokens and their probabilities, by id
};

struct Oracle {
  std::vector<int32_t> history;
  std::vector<std::vector<float>> logits;
  std::vector<OracleCase> cases;

  uint32_t vocab() const { return static_cast<uint32_t>(logits.front().size()); }

  static Oracle read(const std::string& path) {
    const nlohmann::json file = nlohmann::json::parse(std::ifstream(path));
    Oracle oracle;
    oracle.history = file.at("history").get<std::vector<int32_t>>();
    oracle.logits = file.at("logits").get<std::vector<std::vector<float>>>();
    for (const nlohmann::json& given : file.at("cases")) {
      OracleCase one;
      nlohmann::json shown = given;
      shown.erase("kept");
      one.text = shown.dump();
      for (const auto& [name, value] : shown.items()) one.names.insert(name);
      SampleParams& params = one.params;
      params.temperature = given.at("temperature");
      params.top_p = given.value("top_p", 1.0f);
      params.top_k = given.value("top_k", 0u);
      params.min_p = given.value("min_p", 0.0f);
      params.typical_p = given.value("typical_p", 1.0f);
      params.repetition_penalty = given.value("repetition_penalty", 1.0f);
      params.presence_penalty = given.value("presence_penalty", 0.0f);
      params.frequency_penalty = given.value("frequency_penalty", 0.0f);
      params.repetition_from = given.value("repetition_from", 0u);
      params.frequency_from = given.value("frequency_from", 0u);
      params.seed = 77 + oracle.cases.size();
      one.row = given.at("row");
      for (const auto& [token, bias] : given.value("biases", std::vector<std::pair<int32_t, float>>())) {
        one.biases.push_back({token, bias});
      }
      for (uint32_t token : given.value("mask", std::vector<uint32_t>())) {
        one.mask.resize(mask_words(oracle.vocab()));
        one.mask[token / 32] |= 1u << token % 32;
      }
      one.kept = given.at("kept").get<std::vector<std::pair<int32_t, double>>>();
      oracle.cases.push_back(std::move(one));
    }
    return oracle;
  }

  // What asks a backend for the case's draws at the positions 0 .. draws − 1 of logits row `logits_row`.
  std::vector<SampleRow> rows_of(const OracleCase& one, uint32_t logits_row, uint32_t draws) const {
    std::vector<SampleRow> rows(draws);
    for (uint32_t i = 0; i < draws; ++i) {
      rows[i] = {one.params, logits_row, i};
      if (one.params.repeats()) rows[i].repeated = std::span(history).subspan(one.params.repetition_from);
      if (one.params.counts()) rows[i].counted = std::span(history).subspan(one.params.frequency_from);
      rows[i].biases = one.biases;
      if (!one.mask.empty()) rows[i].mask = one.mask.data();
    }
    return rows;
  }

  // How many of the tokens are not the one of their number; a number within `slack` of a border between two tokens may
  // fall to either.
  static size_t wrong(const OracleCase& one, const std::vector<int32_t>& tokens, double slack) {
    size_t wrong = 0;
    for (uint32_t position = 0; position < tokens.size(); ++position) {
      const double number = cpu::uniform(one.params.seed, position);
      double begin = 0;
      bool right = false;
      for (const auto& [token, probability] : one.kept) {
        const double end = begin + probability;
        if (token == tokens[position]) right = number > begin - slack && number < end + slack;
        begin = end;
      }
      wrong += right ? 0 : 1;
    }
    return wrong;
  }
};

}  // namespace iokv::test
