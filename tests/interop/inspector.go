package main

import (
	"fmt"
	"strconv"

	"github.com/hibiken/asynq"
)

// pageSize is the most tasks that a listing holds.
const pageSize = 10_000

// inspecting makes a command of what an Inspector does with a fixed number of words.
func inspecting(count int, do func(inspector *asynq.Inspector, words []string) (any, error)) runner {
	return func(redis asynq.RedisConnOpt, words []string) (any, error) {
		if len(words) != count {
			return nil, fmt.Errorf("%d words expected, %d found", count, len(words))
		}
		inspector := asynq.NewInspector(redis)
		defer inspector.Close()
		return do(inspector, words)
	}
}

func queues(inspector *asynq.Inspector, _ []string) (any, error) {
	names, err := inspector.Queues()
	if err != nil {
		return nil, err
	}
	infos := map[string]*asynq.QueueInfo{}
	for _, name := range names {
		if infos[name], err = inspector.GetQueueInfo(name); err != nil {
			return nil, err
		}
	}
	return infos, nil
}

func history(inspector *asynq.Inspector, words []string) (any, error) {
	days, err := strconv.Atoi(words[1])
	if err != nil {
		return nil, err
	}
	return inspector.History(words[0], days)
}

func servers(inspector *asynq.Inspector, _ []string) (any, error) {
	infos, err := inspector.Servers()
	return viewsOf(infos, viewOfServer), err
}

func task(inspector *asynq.Inspector, words []string) (any, error) {
	info, err := inspector.GetTaskInfo(words[0], words[1])
	if err != nil {
		return nil, err
	}
	return viewOfTask(info), nil
}

func tasks(inspector *asynq.Inspector, words []string) (any, error) {
	list, known := map[string]func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
		"pending":   inspector.ListPendingTasks,
		"active":    inspector.ListActiveTasks,
		"scheduled": inspector.ListScheduledTasks,
		"retry":     inspector.ListRetryTasks,
		"archived":  inspector.ListArchivedTasks,
		"completed": inspector.ListCompletedTasks,
	}[words[1]]
	if !known {
		return nil, fmt.Errorf("no such state: %q", words[1])
	}
	infos, err := list(words[0], asynq.PageSize(pageSize))
	return viewsOf(infos, viewOfTask), err
}

func group(inspector *asynq.Inspector, words []string) (any, error) {
	infos, err := inspector.ListAggregatingTasks(words[0], words[1], asynq.PageSize(pageSize))
	return viewsOf(infos, viewOfTask), err
}

func pause(inspector *asynq.Inspector, words []string) (any, error) {
	return nil, inspector.PauseQueue(words[0])
}

func unpause(inspector *asynq.Inspector, words []string) (any, error) {
	return nil, inspector.UnpauseQueue(words[0])
}

func cancel(inspector *asynq.Inspector, words []string) (any, error) {
	return nil, inspector.CancelProcessing(words[0])
}

func run(inspector *asynq.Inspector, words []string) (any, error) {
	return nil, inspector.RunTask(words[0], words[1])
}

func remove(inspector *asynq.Inspector, words []string) (any, error) {
	return nil, inspector.DeleteTask(words[0], words[1])
}
