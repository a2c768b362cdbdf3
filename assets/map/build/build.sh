#!/usr/bin/env bash
# Build ../map.js from src/ with the versions of package-lock.json, and note the licences of what is in it. Needs node and npm, and the
# network; the app needs none of them. Nothing is left behind here. New versions: package.json, then here
#   npm install --package-lock-only --omit-lockfile-registry-resolved
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$here"/package.json "$here"/package-lock.json "$here"/src "$work"
cd "$work"
npm ci --ignore-scripts --silent --no-audit --no-fund
# of all sources in the order of their names, so that a test sees when they changed and this was not run
sum=$(cat $(printf "%s\n" src/*.js | LC_ALL=C sort) package-lock.json | sha256sum | cut -d" " -f1)
npx esbuild src/points.js --bundle --minify --format=esm --target=es2020 --charset=utf8 --legal-comments=inline --banner:js="/* regl is in it, see LICENSES.txt; sources $sum */" --outfile="$here/../map.js"
{
  echo "assets/map/map.js holds the following library, unchanged but for its size."
  echo
  echo "regl $(node -p 'require("./node_modules/regl/package.json").version'), https://github.com/regl-project/regl"
  echo
  cat node_modules/regl/LICENSE
} > "$here/../LICENSES.txt"
