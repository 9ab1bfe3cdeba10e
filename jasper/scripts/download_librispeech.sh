#!/usr/bin/env bash
# download_librispeech.sh [DATA_SET] [DATA_ROOT_DIR] [options]; --help lists them
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/launch.sh" "${BASH_SOURCE[0]}" download_librispeech "$@"
