#!/bin/bash -eu
# Run in the build image with the checkout as working directory; $OUT and $WORK are the image's.
# The image has its own atheris; the other dependencies come with the project.
pip3 install .

# Both before the fuzzer: they are inputs of the build, and a mistake in them should stop it early.
corpus=$(mktemp -d "$WORK/corpus-XXXXXX")
python3 -P -m fuzz.cli corpus import "$corpus" corpus/seeds corpus/regressions
python3 -P -m fuzz.cli corpus pack "$corpus" "$OUT/vmemmap_fuzzer_seed_corpus.zip" --bytes
python3 oss-fuzz/dictionary.py corpus/seeds corpus/regressions > "$OUT/vmemmap_fuzzer.dict"
cat > "$OUT/vmemmap_fuzzer.options" <<'OPTIONS'
[libfuzzer]
max_len = 972
len_control = 0
OPTIONS

compile_python_fuzzer oss-fuzz/vmemmap_fuzzer.py
