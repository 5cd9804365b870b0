#!/bin/sh
# The runner, as `mvn -q -B test-compile` has built it.
cd "$(dirname "$0")/.." || exit 1
exec java -cp "target/classes:target/test-classes:$(cat target/test-classpath)" runner.Runner
