<?php
// What every scenario needs: settings, checks, reporting.

const WAIT_SECS = 20;

class Failed extends Exception
{
}

class Skipped extends Exception
{
}

function setting(string $name, string $otherwise): string
{
    $value = getenv($name);
    return $value === false || $value === '' ? $otherwise : $value;
}

function name(string $rest): string
{
    return setting('INTEROP_PREFIX', 'interop-php-') . $rest;
}

function check(bool $condition, string $otherwise): void
{
    if (!$condition) {
        throw new Failed($otherwise);
    }
}

function same(string $what, $expected, $actual): void
{
    if ($expected !== $actual) {
        throw new Failed("$what: expected " . json_encode($expected) . ', got ' . json_encode($actual));
    }
}

/** A body whose content shows a lost, doubled or moved stretch. */
function pattern(int $size): string
{
    $unit = '';
    for ($i = 0; $i < 251 * 256; $i++) {
        $unit .= chr(($i * 31 + intdiv($i, 251)) & 255);
    }
    return substr(str_repeat($unit, intdiv($size, strlen($unit)) + 1), 0, $size);
}

function kill_and_restart(): void
{
    exec(escapeshellarg(setting('BROKER_CONTROL', '')) . ' kill-restart', $output, $code);
    same('exit status of kill-restart', 0, $code);
}

/** Runs the scenarios that the environment asks for and reports each. */
function run(array $scenarios): void
{
    $only = array_filter(explode(',', setting('INTEROP_ONLY', '')));
    foreach ($scenarios as $scenario) {
        if ($only && !in_array($scenario, $only, true)) {
            continue;
        }
        try {
            $scenario();
            $line = "PASS $scenario";
        } catch (Skipped $skip) {
            $line = "SKIP $scenario: " . $skip->getMessage();
        } catch (Failed $failure) {
            $line = "FAIL $scenario: " . $failure->getMessage();
        } catch (Throwable $thrown) {
            $line = "FAIL $scenario: " . get_class($thrown) . ': ' . $thrown->getMessage()
                . ' at ' . basename($thrown->getFile()) . ':' . $thrown->getLine();
        }
        echo preg_replace('/\s+/', ' ', $line), "\n";
        // Connections that the scenario left behind close now, and not in the middle of the next one.
        gc_collect_cycles();
    }
    echo "DONE\n";
}
