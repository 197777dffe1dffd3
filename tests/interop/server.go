package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hibiken/asynq"
)

// idlePause is how long the server waits before it looks at an empty queue again. asynq's second would leave all the
// work to our worker.
const idlePause = 10 * time.Millisecond

// serve is asynq's server: it works on one queue until SIGTERM. Its recoverer runs at once, as in every asynq server.
func serve(redis asynq.RedisConnOpt, arguments []string) (any, error) {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	queue := flags.String("queue", "default", "its `name`")
	concurrency := flags.Int("concurrency", 1, "`tasks` at once")
	runs := flags.String("runs", os.DevNull, "`file` that gets a line for every task begun")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	server := asynq.NewServer(redis, asynq.Config{
		Concurrency:       *concurrency,
		Queues:            map[string]int{*queue: 1},
		TaskCheckInterval: idlePause,
	})
	if err := server.Start(author{*runs}); err != nil {
		return nil, err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	server.Shutdown()
	return "stopped", nil
}

// author handles tasks as the Python code of the tests does.
type author struct {
	runs string
}

func (author author) ProcessTask(ctx context.Context, task *asynq.Task) error {
	var wishes struct {
		WaitFor string `json:"wait_for"`
		Needs   string `json:"needs"`
	}
	if err := json.Unmarshal(task.Payload(), &wishes); err != nil {
		return err
	}
	id := task.ResultWriter().TaskID()
	if err := appendLine(author.runs, "asynq "+id); err != nil {
		return err
	}
	for wishes.WaitFor != "" && !exists(wishes.WaitFor) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	if wishes.Needs != "" && !exists(wishes.Needs) {
		return errors.New("something is missing")
	}
	_, err := fmt.Fprintf(task.ResultWriter(), `{"by":"asynq","task_id":%q}`, id)
	return err
}

func appendLine(path, line string) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteString(line + "\n")
	return err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
