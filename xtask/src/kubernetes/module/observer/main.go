// Command observer is a client of a Kubernetes API server while etcd is restored. Every quarter of a second it compares
// what the API server and its own informers show with what etcd holds, and it creates objects and Events all the time.
//
// It prints a line for each result: the time in milliseconds since 1970, the name of the check, and "ok" or what is wrong.
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// How long a request may take.
const timeout = 2 * time.Second

// The namespace of the objects that are written all the time. Comparisons leave it out.
const writes = "writes"

// The watched resources, and the folder of each in etcd.
var resources = map[string]schema.GroupVersionResource{
	"configmaps":  {Version: "v1", Resource: "configmaps"},
	"secrets":     {Version: "v1", Resource: "secrets"},
	"namespaces":  {Version: "v1", Resource: "namespaces"},
	"pods":        {Version: "v1", Resource: "pods"},
	"deployments": {Group: "apps", Version: "v1", Resource: "deployments"},
	"replicasets": {Group: "apps", Version: "v1", Resource: "replicasets"},
}

// The objects that something shows: from the key in etcd to the revision.
type objects map[string]string

func main() {
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server")
	tls := transport.TLSInfo{}
	flag.StringVar(&tls.TrustedCAFile, "cacert", "", "the authority of etcd")
	flag.StringVar(&tls.CertFile, "cert", "", "the certificate for etcd")
	flag.StringVar(&tls.KeyFile, "key", "", "its key")
	flag.Parse()
	if err := run(*kubeconfig, tls); err != nil {
		fmt.Fprintln(os.Stderr, "observer:", err)
		os.Exit(1)
	}
}

func run(kubeconfig string, tls transport.TLSInfo) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 1000, 1000
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	lister, err := metadata.NewForConfig(config)
	if err != nil {
		return err
	}
	secure, err := tls.ClientConfig()
	if err != nil {
		return err
	}
	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://127.0.0.1:2379"}, TLS: secure})
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	stores := map[string]cache.Store{}
	for folder, resource := range resources {
		informer, err := factory.ForResource(resource)
		if err != nil {
			return err
		}
		stores[folder] = informer.Informer().GetStore()
	}
	factory.Start(context.Background().Done())
	go every(100*time.Millisecond, func(n int) { report("write", write(client, n)) })
	go every(time.Second, func(n int) { report("event", event(client, n)) })
	every(250*time.Millisecond, func(int) { compare(etcd, lister, stores) })
	return nil
}

func every(pause time.Duration, do func(n int)) {
	for n := 0; ; n++ {
		do(n)
		time.Sleep(pause)
	}
}

var printing sync.Mutex

func report(check string, err error) {
	result := "ok"
	if err != nil {
		result = strings.ReplaceAll(err.Error(), "\n", " ")
	}
	printing.Lock()
	defer printing.Unlock()
	fmt.Println(time.Now().UnixMilli(), check, result)
}

// Compares all views with etcd, unless etcd changed in the meantime.
func compare(etcd *clientv3.Client, lister metadata.Interface, stores map[string]cache.Store) {
	before, err := inEtcd(etcd)
	if err != nil {
		report("etcd", err)
		return
	}
	fresh, freshErr := listed(lister, "")
	cached, cachedErr := listed(lister, "0")
	watched := inStores(stores)
	after, err := inEtcd(etcd)
	report("etcd", err)
	if err != nil || !maps.Equal(before, after) {
		return
	}
	report("list", differences(fresh, freshErr, after))
	report("cached", differences(cached, cachedErr, after))
	report("informer", differences(watched, nil, after))
}

func differences(found objects, err error, wanted objects) error {
	if err != nil {
		return err
	}
	extra, missing, outdated := 0, 0, 0
	for key, revision := range found {
		if now, exists := wanted[key]; !exists {
			extra++
		} else if now != revision {
			outdated++
		}
	}
	for key := range wanted {
		if _, exists := found[key]; !exists {
			missing++
		}
	}
	if extra+missing+outdated == 0 {
		return nil
	}
	return fmt.Errorf("wrong %d of %d: %d extra, %d missing, %d outdated", extra+missing+outdated, len(wanted), extra, missing, outdated)
}

// Returns the objects that etcd holds.
func inEtcd(etcd *clientv3.Client) (objects, error) {
	found := objects{}
	for folder := range resources {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		answer, err := etcd.Get(ctx, "/registry/"+folder+"/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		cancel()
		if err != nil {
			return nil, err
		}
		for _, record := range answer.Kvs {
			add(found, string(record.Key), fmt.Sprint(record.ModRevision))
		}
	}
	return found, nil
}

// Returns the objects that the API server lists. At version "0", it lists what its cache holds.
func listed(lister metadata.Interface, version string) (objects, error) {
	found := objects{}
	for folder, resource := range resources {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		list, err := lister.Resource(resource).List(ctx, metav1.ListOptions{ResourceVersion: version})
		cancel()
		if err != nil {
			return nil, err
		}
		for _, object := range list.Items {
			add(found, key(folder, &object), object.ResourceVersion)
		}
	}
	return found, nil
}

// Returns the objects that the informers hold.
func inStores(stores map[string]cache.Store) objects {
	found := objects{}
	for folder, store := range stores {
		for _, item := range store.List() {
			if object, err := meta.Accessor(item); err == nil {
				add(found, key(folder, object), object.GetResourceVersion())
			}
		}
	}
	return found
}

// Returns the key of an object in etcd.
func key(folder string, object metav1.Object) string {
	if object.GetNamespace() == "" {
		return "/registry/" + folder + "/" + object.GetName()
	}
	return "/registry/" + folder + "/" + object.GetNamespace() + "/" + object.GetName()
}

func add(found objects, key, revision string) {
	if !strings.Contains(key, "/"+writes+"/") {
		found[key] = revision
	}
}

// Creates an object and deletes an older one.
func write(client kubernetes.Interface, n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	written := client.CoreV1().ConfigMaps(writes)
	object := corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "written-"}, Data: map[string]string{"n": fmt.Sprint(n)}}
	created, err := written.Create(ctx, &object, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return written.Delete(ctx, created.Name, metav1.DeleteOptions{})
}

// Creates an Event.
func event(client kubernetes.Interface, n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	object := corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: "observed-", Namespace: writes},
		InvolvedObject: corev1.ObjectReference{Kind: "Namespace", Name: writes, Namespace: writes},
		Reason:         "Observed",
		Message:        fmt.Sprint(n),
	}
	_, err := client.CoreV1().Events(writes).Create(ctx, &object, metav1.CreateOptions{})
	return err
}
