package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

const (
	frameMax      = 131072
	wait          = 10 * time.Second
	scenarioLimit = 90 * time.Second
)

var (
	url      = os.Getenv("AMQP_URL")
	urlV6    = os.Getenv("AMQP_URL_V6")
	messages = messageCount()
)

// A scenario ends by returning, by skip or by a mismatch, which are panics so that helpers can use them, too.
type (
	skipped  string
	mismatch string
)

func skip(reason string) { panic(skipped(reason)) }

func fail(format string, values ...any) { panic(mismatch(fmt.Sprintf(format, values...))) }

func check(condition bool, format string, values ...any) {
	if !condition {
		fail(format, values...)
	}
}

func equal(actual, expected any, what string) {
	if !reflect.DeepEqual(actual, expected) {
		fail("%s: expected %s, got %s", what, short(expected), short(actual))
	}
}

func contains(text, part, what string) {
	check(strings.Contains(text, part), "%s: expected %q in %q", what, part, text)
}

// must ends the scenario with the error, if there is one.
func must(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func get[T any](value T, err error) T {
	must(err)
	return value
}

func short(value any) string {
	text := fmt.Sprintf("%#v", value)
	if len(text) > 200 {
		return fmt.Sprintf("%s… (%d characters)", text[:200], len(text))
	}
	return text
}

// eventually calls probe until it returns true.
func eventually(what string, probe func() bool) { within(wait, what, probe) }

func within(limit time.Duration, what string, probe func() bool) {
	deadline := time.Now().Add(limit)
	for !probe() {
		check(time.Now().Before(deadline), "waited %v for %s", limit, what)
		time.Sleep(2 * time.Millisecond)
	}
}

// receive takes the next value of a Go channel.
func receive[T any](from <-chan T, what string) T {
	select {
	case value, ok := <-from:
		check(ok, "%s: the channel was closed", what)
		return value
	case <-time.After(wait):
		fail("waited %v for %s", wait, what)
		panic("unreachable")
	}
}

func needBrokerControl() {
	if os.Getenv("BROKER_CONTROL") == "" {
		skip("no broker control: this broker is not ours to kill")
	}
}

func killAndRestartBroker() {
	if output, err := exec.Command(os.Getenv("BROKER_CONTROL"), "kill-restart").CombinedOutput(); err != nil {
		fail("kill-restart: %v: %s", err, output)
	}
}

var names int

// name is a name for a queue or exchange that nobody else uses.
func name(suffix string) string {
	names++
	return fmt.Sprintf("%s%s-%d", os.Getenv("INTEROP_PREFIX"), suffix, names)
}

func messageCount() int {
	if count, err := strconv.Atoi(os.Getenv("INTEROP_MESSAGES")); err == nil {
		return count
	}
	return 50000
}

func fibonacci(n int) uint64 {
	var a, b uint64 = 0, 1
	for i := 0; i < n; i++ {
		a, b = b, a+b
	}
	return a
}

// bodyOf returns bytes that no shift or swap of blocks leaves the same.
func bodyOf(size int) []byte {
	body := make([]byte, size)
	for i := 0; i+4 <= size; i += 4 {
		binary.BigEndian.PutUint32(body[i:], uint32(i/4+1)*2654435761)
	}
	return body
}

func numbers(count int) []string {
	result := make([]string, count)
	for i := range result {
		result[i] = strconv.Itoa(i)
	}
	return result
}

type namedScenario struct {
	name string
	run  func()
}

func runOne(run func()) (kind, reason string) {
	type outcome struct{ kind, reason string }
	done := make(chan outcome, 1)
	go func() {
		defer func() {
			switch why := recover().(type) {
			case nil:
				done <- outcome{"PASS", ""}
			case skipped:
				done <- outcome{"SKIP", string(why)}
			case mismatch:
				fmt.Fprintln(os.Stderr, why, string(debug.Stack()))
				done <- outcome{"FAIL", string(why)}
			default:
				fmt.Fprintln(os.Stderr, why, string(debug.Stack()))
				done <- outcome{"FAIL", fmt.Sprint(why)}
			}
		}()
		run()
	}()
	select {
	case result := <-done:
		return result.kind, result.reason
	case <-time.After(scenarioLimit):
		return "FAIL", fmt.Sprintf("not finished after %v", scenarioLimit)
	}
}

// runAll runs the scenarios in the given order and prints what the runner reads.
func runAll(scenarios []namedScenario) {
	only := os.Getenv("INTEROP_ONLY")
	for _, scenario := range scenarios {
		if only != "" && !strings.Contains(","+only+",", ","+scenario.name+",") {
			continue
		}
		started := time.Now()
		kind, reason := runOne(scenario.run)
		line := kind + " " + scenario.name
		if reason != "" {
			line += ": " + strings.Join(strings.Fields(reason), " ")
		}
		fmt.Println(line)
		fmt.Fprintf(os.Stderr, "%s: %.2f s\n", scenario.name, time.Since(started).Seconds())
	}
	fmt.Println("DONE")
}
