#!/usr/bin/env bash
# Include directions (a folder uses only those it may), and one file for each outside library.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
bad=0

# may FOLDER ALLOWED...: every project include under FOLDER is from one of these.
may() {
    local folder=$1 allowed=$2 line
    while IFS= read -r line; do
        [ -z "$line" ] && continue
        echo "$folder may not include this: $line"
        bad=1
    done < <(grep -rnE '#include "(engine|proto|services|gateway|tests)/' "$folder" --include='*.[ch]' |
        grep -vE "#include \"($allowed)/")
}

# only HEADER FILE: outside tests, this library is spoken to in that file alone.
only() {
    local header=$1 file=$2 line
    while IFS= read -r line; do
        [ -z "$line" ] && continue
        echo "<$header> belongs in $file: $line"
        bad=1
    done < <(grep -rnE "#include <$header" engine proto services gateway --include='*.[ch]' |
        grep -vE "^($file):")
}

order=(base quant weights kernels ops text media model run)
below=
for folder in "${order[@]}"; do
    below="${below:+$below|}engine/$folder"
    may "engine/$folder" "$below"
done
may proto 'proto|engine/base'
may gateway 'gateway|proto|engine/base'
for service in services/*/; do
    service=${service%/}
    may "$service" "$service|services/stage|proto|engine/[a-z]+"
done

only zmq 'proto/link.c'
only msgpack 'proto/codec.c'
only gst 'services/ingest/line.c'
only microhttpd 'gateway/http.c'
only yaml 'engine/base/config.c'
only sodium 'engine/(base/hash|run/prefix_key).c'
only cblas 'engine/ops/dense.c'
only curl 'services/millrace/client.c'
only jansson '(gateway|services/format|services/millrace(/bench)?)/[a-z_]+\.[ch]'

# The heap has one door.
if grep -rnE '\b(malloc|calloc|realloc|strdup|free)\(' engine proto gateway services --include='*.[ch]' |
    grep -vE '^engine/base/heap\.[ch]:|_free\(|json_dumps|free\((body|entries|entries\[i\])\);|->free\('; then
    echo "use heap.h"
    bad=1
fi
[ "$bad" -eq 0 ] && echo "include directions and library doors hold"
exit "$bad"
