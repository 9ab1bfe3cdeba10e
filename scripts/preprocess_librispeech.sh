#!/usr/bin/env bash
# preprocess_librispeech.sh [SPEEDS...] [options]; --help lists them
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" "${BASH_SOURCE[0]}" preprocess_librispeech "$@"
