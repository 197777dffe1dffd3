// Asynqpeer is asynq itself, in the roles that our worker has to get along with: the client that enqueues, the inspector
// that looks and intervenes, and a server that works on the same queues. The tests beside this file drive it.
//
// Every command prints one JSON value. A command that fails prints {"error": …} and ends with status 1; errors that
// asynq exports are given by their Go names.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"

	"github.com/hibiken/asynq"
)

// A runner does what a command is for. Its answer is shown as JSON.
type runner func(redis asynq.RedisConnOpt, words []string) (answer any, err error)

type command struct {
	usage string
	run   runner
}

var commands = map[string]command{
	"enqueue": {"[OPTIONS] (see enqueue -help)", enqueue},
	"serve":   {"[OPTIONS] (see serve -help)", serve},

	"queues":  {"", inspecting(0, queues)},
	"history": {"QUEUE DAYS", inspecting(2, history)},
	"servers": {"", inspecting(0, servers)},
	"task":    {"QUEUE ID", inspecting(2, task)},
	"tasks":   {"QUEUE STATE", inspecting(2, tasks)},
	"group":   {"QUEUE GROUP", inspecting(2, group)},

	"pause":   {"QUEUE", inspecting(1, pause)},
	"unpause": {"QUEUE", inspecting(1, unpause)},
	"cancel":  {"ID", inspecting(1, cancel)},
	"run":     {"QUEUE ID", inspecting(2, run)},
	"delete":  {"QUEUE ID", inspecting(2, remove)},
}

func main() {
	address := flag.String("redis", "127.0.0.1:6379", "`address` of Redis")
	flag.Usage = usage
	flag.Parse()
	command, known := commands[flag.Arg(0)]
	if !known {
		usage()
		os.Exit(2)
	}
	answer, err := command.run(asynq.RedisClientOpt{Addr: *address}, flag.Args()[1:])
	if err != nil {
		show(map[string]string{"error": nameOf(err)})
		os.Exit(1)
	}
	show(answer)
}

func usage() {
	lines := make([]string, 0, len(commands))
	for name, command := range commands {
		lines = append(lines, strings.TrimSpace(name+" "+command.usage))
	}
	sort.Strings(lines)
	fmt.Fprintf(os.Stderr, "usage: asynqpeer [-redis ADDRESS] COMMAND\n  %s\n", strings.Join(lines, "\n  "))
}

func show(value any) {
	if err := json.NewEncoder(os.Stdout).Encode(value); err != nil {
		fmt.Fprintln(os.Stderr, "asynqpeer:", err)
		os.Exit(1)
	}
}

func nameOf(err error) string {
	for name, known := range map[string]error{
		"ErrDuplicateTask":  asynq.ErrDuplicateTask,
		"ErrTaskIDConflict": asynq.ErrTaskIDConflict,
		"ErrQueueNotFound":  asynq.ErrQueueNotFound,
		"ErrTaskNotFound":   asynq.ErrTaskNotFound,
	} {
		if errors.Is(err, known) {
			return name
		}
	}
	return err.Error()
}
