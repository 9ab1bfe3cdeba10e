// The command line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "files.h"

namespace speech::internal {

struct Options {
  fs::path model;                  // --mindir_path
  fs::path features;               // --input0_path, a folder
  fs::path lengths;                // --input1_path, a folder
  fs::path index;                  // --index, instead of the two
  std::vector<std::string> audio;  // --audio, instead of features
  fs::path audio_list;             // --audio_list
  bool stream = false;  // standard input, piece by piece
  double pause = 0.8;   // s without a letter, after which a text of a stream is final
  double chunk = 0.2;   // s of a stream that the network takes at a time
  bool json = false;
  fs::path results;       // of features
  fs::path times;         // empty: no statistics
  std::string target;     // "CPU" or "Ascend"; empty: the one that the model was made for
  std::string engine;     // "lite", "wheel"; empty: the first that serves the target
  std::string precision;  // of an Ascend card; empty: preferred_fp32
  std::string python;     // for the wheel; empty: that of the build
  std::vector<int> devices{0};
  int instances = 1;          // on each device
  int threads = 0;            // of each instance, on a CPU; 0: cores shared evenly
  std::int64_t batch = 8;     // utterances in a batch, where the model leaves it open
  std::int64_t longest = 0;   // frames of an input, where the model leaves it open; 0: any
  std::int64_t overlap = -1;  // frames that two parts of a long utterance share; -1: a fifth
  bool force = false;
  bool help = false;

  bool transcribes() const { return !audio.empty() || !audio_list.empty(); }
};

// Parses the command line. Values are not yet checked against the model. Throws UsageError.
Options parse_options(const std::vector<std::string>& arguments);

std::string usage();

}  // namespace speech::internal
