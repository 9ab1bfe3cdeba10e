#include <doctest/doctest.h>

#include "errors.h"
#include "mindir.h"
#include "samples.h"

using infer::Mindir;
using infer::parse_mindir;

TEST_CASE("mindir says inputs and operators") {
  const Mindir model = parse_mindir(samples::mindir(-1, 161, 500, "LSTM"));
  CHECK(model.producer_version == "2.10.0");
  CHECK(model.inputs.size() == 2);
  CHECK((model.inputs[0].shape == std::vector<std::int64_t>{-1, 161, 500}));
  CHECK(model.inputs[0].type == infer::kMindirFloat32);
  CHECK((model.inputs[1].shape == std::vector<std::int64_t>{-1}));
  CHECK(model.inputs[1].type == infer::kMindirInt32);
  CHECK((model.operators == std::set<std::string>{"LSTM", "Transpose"}));
}

TEST_CASE("mindir finds operators among functions and primitives") {
  using samples::bytes;
  const std::string node = bytes(1, bytes(4, "REF::LSTM:290"));
  const std::string inner = bytes(1, bytes(4, "DynamicRNN"));
  const Mindir model = parse_mindir(bytes(7, node) + bytes(8, inner) +
                                    bytes(12, bytes(1, "LSTM:290") + bytes(2, "LSTM")));
  CHECK((model.operators == std::set<std::string>{"DynamicRNN", "LSTM"}));
}

TEST_CASE("mindir reads packed dimensions") {
  using samples::bytes;
  const std::string tensor = bytes(1, samples::varint(3) + samples::varint(300));
  const Mindir model =
      parse_mindir(bytes(7, bytes(1, bytes(4, "Add")) + bytes(5, bytes(2, tensor))));
  CHECK((model.inputs[0].shape == std::vector<std::int64_t>{3, 300}));
}

TEST_CASE("mindir refuses other bytes") {
  using Bad = std::invalid_argument;
  const std::string whole = samples::mindir(1, 4, 8);
  CHECK_THROWS_WITH_AS(static_cast<void>(parse_mindir(whole.substr(0, whole.size() - 1))),
                       doctest::Contains("in the middle"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(parse_mindir("")), doctest::Contains("no graph"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(parse_mindir(samples::bytes(2, "pytorch"))),
                       doctest::Contains("no graph"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(parse_mindir("\x0F")), doctest::Contains("unknown kind"),
                       Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(parse_mindir(std::string_view("\x02\x00", 2))),
                       doctest::Contains("without a number"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(parse_mindir(std::string(20, '\xFF'))),
                       doctest::Contains("without an end"), Bad);
  CHECK_THROWS_WITH_AS(
      static_cast<void>(parse_mindir("PK\x03\x04 a zip file, such as PyTorch writes")),
      doctest::Contains(""), Bad);
}

TEST_CASE("mindir files that cannot be read") {
  const samples::Folder folder;
  using infer::UsageError;
  CHECK_THROWS_WITH_AS(static_cast<void>(infer::read_mindir(folder.path / "none.mindir")),
                       doctest::Contains("No such file"), UsageError);
  CHECK_THROWS_WITH_AS(static_cast<void>(infer::read_mindir(folder.path)),
                       doctest::Contains("not a MindIR file"), UsageError);
  samples::write(folder.path / "empty.mindir", std::string());
  CHECK_THROWS_WITH_AS(static_cast<void>(infer::read_mindir(folder.path / "empty.mindir")),
                       doctest::Contains("not a MindIR file"), UsageError);
}
