#!/usr/bin/env bash
# From first night to routine, on a simulated laboratory: `run_example.sh [FOLDER]`. Nothing in it is real.
# Needs `hemax-batch` on PATH. Takes about fifteen seconds on two cores.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
folder=${1:-laboratory-example}
mkdir -p "$folder"
cd "$folder"
pattern='(?P<scanner>scanner [A-Z])/(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})/'

echo "1. a simulated laboratory: blood, results of a run, two examiners, reviews, 90 nights of two scanners"
rm -rf simulated
python "$here/simulated_laboratory.py" simulated

echo "2. the limits, set before the results are seen"
hemax-batch verify --print-rules >laboratory.toml

echo "3. the verification"
hemax-batch verify simulated/manual.csv simulated/results --scans simulated/scans.csv \
    --rules laboratory.toml --out verification || [ $? = 9 ]

echo "4. the nights: exit code 9 says that a chart is out of control"
code=0
hemax-batch monitor simulated/nights --baseline 2026-01-05 2026-02-08 --control "QC-*" \
    --path-pattern "$pattern" --rules laboratory.toml --out monitor || code=$?
[ "$code" = 9 ]

echo "5. against what the simulation knows"
python "$here/compare_with_truth.py" simulated/truth.json verification/verification.json monitor/monitor.json
echo "Open verification/verification.html and monitor/monitor.html of $folder in a browser."
