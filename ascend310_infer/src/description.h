// The description NAME.json that export.py writes beside a model.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "decoding.h"
#include "files.h"
#include "json.h"
#include "memory.h"

namespace speech::internal {

// An input of the graph in a MindIR file.
struct GraphInput {
  std::string type;                 // "float32", "float16", "int32"; "other"
  std::vector<std::int64_t> shape;  // -1: open axis
};

// What export.py read from the graph of a MindIR file.
struct GraphFacts {
  std::int64_t bytes = 0;    // size of the file
  std::int64_t version = 0;  // of MindIR; 0: not told, by an earlier export.py
  std::vector<GraphInput> inputs;
  std::set<std::string> operators;  // "LSTM", "MatMul", ...
};

// A shape that the network takes. Several may share one file, and 0 means any.
struct Bucket {
  fs::path file;
  std::int64_t batch = 0;             // utterances
  std::int64_t frames = 0;            // feature frames, padding included
  bool converted = false;             // made by converter_lite of what export.py wrote
  std::optional<GraphFacts> graph{};  // of the file; none in descriptions of earlier versions
};

// What a file of the export held when it was written: a model, or weights beside it.
struct FileFacts {
  fs::path file;
  std::int64_t bytes = 0;
  std::uint32_t crc32 = 0;
};

// How the output of a network that takes a recording piece by piece lies to its input.
struct StreamShape {
  std::int64_t stride = 1;  // feature frames to an output frame; a piece has a multiple of it
  std::int64_t delay = 0;   // output frames that it is late by
};

// Of a model that takes samples, `dimension` is 1, and an input frame is a sample.
struct Description {
  fs::path path;
  std::string model;              // "deepspeech2"
  std::string device;             // the file is for: "CPU", "GPU", "Ascend", "any"
  bool takes_samples = false;     // the network computes the features itself
  std::int64_t dimension = 0;     // bins of a feature frame
  std::int64_t labels = 0;        // outputs of a frame
  Vocabulary vocabulary;          // the labels and which one is blank
  std::int64_t frame_stride = 0;  // input frames to an output frame; 0: unknown
  double frame_seconds = 0;       // from one input frame to the next; 0: unknown
  std::int64_t hop = 1;           // input frames to a feature frame
  std::shared_ptr<const Json>
      features;                 // how recordings become features, for `parse_features`; or null
  std::vector<Bucket> buckets;  // by frames, shortest first, open ones last; then by batch
  std::optional<StreamShape> stream{};     // takes a recording piece by piece; else none
  std::vector<FileFacts> files;            // none in descriptions of earlier versions
  std::optional<FileFacts> content{};      // the bytes of an ONNX file before its metadata, or none
  std::optional<MemoryForecast> memory{};  // on a CPU; none in descriptions of earlier versions

  // Whether the network leaves out silence by itself, so that a part of a recording tells nothing
  // of where its outputs lie.
  bool trims_silence() const;

  // Of what an input is a number, in messages: "samples", or "frames" of features.
  const char* unit() const { return takes_samples ? "samples" : "frames"; }
};

// Parses the text of a description; file names in it are relative to `folder`.
// Throws std::invalid_argument, which says what is missing or wrong.
Description parse_description(std::string_view text, const fs::path& folder);

// Reads the description of `model`: NAME.json, or a model beside it (NAME.mindir,
// NAME_graph.mindir). That of NAME.onnx is NAME.onnx.json, or NAME.json of an earlier version; a
// NAME.onnx.mindir or NAME.mindir may be converted from it, NAME.offline.mindir from NAME.mindir. A model that the description does not
// name, a converted one or a renamed copy, replaces the one that it names. Throws UsageError.
Description read_description(const fs::path& model);

// Parses the description that `model` holds, an ONNX file. Throws UsageError.
Description embedded_description(std::string_view text, const fs::path& model);

// Checks that the models can run on `target` ("CPU" or "Ascend"), as far as the description tells.
// Returns notes for the user, a line each: what could not be checked, and is left to MindSpore.
// Throws UsageError where a model was made for another device, cannot be read, has other inputs
// than described, or is not the file that the description was written for (by size and checksum).
std::vector<std::string> check_models(const Description& description, const std::string& target);

}  // namespace speech::internal
