// What a recording holds by the structure of its container, before a decoder sees it.
//
// Decoders read a cut file to its cut, stop where a wrong header tells them to, and read the first
// of several streams. Here the sizes that a file declares are compared with what is there. What
// cannot be checked so is not read. common/audio/containers.py does the same in Python.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "content.h"

namespace speech::internal {

// Streams whose samples follow each other; mostly one, the whole file. ID3v2 tags at the start of
// the content are skipped. Throws InputError if it is cut, damaged, or of a kind that is not read.
std::vector<Stream> streams_of(Content& content);

// Ogg (RFC 3533): the streams that follow each other, each of whole pages.
std::vector<Stream> ogg_streams(const Content& content);

// FLAC (RFC 9639): one stream, whose header declares all samples.
std::vector<Stream> flac_streams(const Content& content);

// Offset of the first of two MPEG frames that fit together; `tagged`: behind an ID3v2 tag, where
// something else may come first.
std::optional<std::int64_t> first_mpeg_frame(const Content& content, bool tagged);

// MPEG audio (ISO 11172-3, 13818-3): all frames as one stream, behind a frame that counts them.
std::vector<Stream> mpeg_streams(const Content& content, std::int64_t first);

// Where an ID3v2 tag ends that starts at `offset`; `offset` if there is none.
std::int64_t id3v2_end(const Content& content, std::int64_t offset);

}  // namespace speech::internal
