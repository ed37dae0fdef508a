/*
 * Types of upload.js and upload.mjs, with what each part does. README.md beside this file has the
 * examples.
 */

/** Makes an uploader, which draws nothing. */
export function createUploader(options?: Options): Uploader;

declare global {
	/** What the classic script `upload.js` defines. */
	var createUploader: typeof import('./upload.mjs').createUploader;
}

export interface Options {
	/** The server's address; without it, where the page came from. */
	server?: string;
	/** Where the server answers with a policy. */
	path?: string;
	/** To be sent as `Authorization: Bearer`. Asked for each policy; when it throws, rejects or
	 * takes longer than `stall`, it is asked again, like the network. */
	ticket?: () => string | null | undefined | Promise<string | null | undefined>;
	/** Called after each change of an upload. */
	onchange?: (upload: Upload) => void;
	/** Called when the server gave a policy, or did not: then `limits` is null. */
	onlimits?: (limits: Limits | null, error: Failure | null) => void;
	/** Asked when an upload ends without a verified response though the object is, or may be, in
	 * the bucket. What it gives becomes the `answer` of an upload that is done; `undefined`, `null`
	 * or `false`: not known. A record of another file under the same key says nothing: compare
	 * its size and time. Not asked when the name was taken before anything was stored. */
	confirm?: (upload: Upload) => unknown;
	/** Uploads at a time. */
	parallel?: number;
	/** Automatic tries after the first. A response 4xx is never tried again. */
	retries?: number;
	/** Milliseconds before the first of them, doubled for each next one. */
	backoff?: number;
	/** Milliseconds without progress until a try is given up. */
	stall?: number;
	/** Destroys the uploader when it aborts. */
	signal?: AbortSignal;
}

export interface Uploader {
	/** May be changed at any time, for what starts from then on. */
	readonly options: Options;
	/** What was added and not removed. */
	readonly uploads: readonly Upload[];
	/** Queues files, and gives their uploads. Throws a TypeError for what is no File, and queues
	 * nothing then. A name that another upload of this uploader has gets a number. */
	add(files: File | FoundFile | Iterable<File | FoundFile> | null, naming?: Naming): Upload[];
	/** Stops an upload, or all. */
	cancel(upload?: Upload): void;
	/** Tries an upload again, or all that failed or were cancelled; not those that were refused
	 * before anything was sent. */
	retry(upload?: Upload): void;
	/** Forgets an upload, stopped if need be. */
	remove(upload: Upload): void;
	/** What the server's policy allows. */
	limits(): Promise<Limits>;
	/** The same after the policy in hand is thrown away: somebody else has signed in. */
	refresh(): Promise<Limits>;
	/** Counts and sums over all uploads. */
	total(): Total;
	/** Fulfilled with the uploads once none is waiting or active. */
	settled(): Promise<Upload[]>;
	/** The files of a drop, those of folders with their paths, for `add`. Call it in the event's
	 * handler: later the list is empty. */
	filesOf(transfer: DataTransfer): Promise<FoundFile[]>;
	/** Cancels all and removes its listeners; no callback comes later, and `add` throws. */
	destroy(): void;
}

/** A file, and its path in a folder (empty: its name alone). */
export interface FoundFile {
	file: File;
	path: string;
}

export interface Naming {
	/** Keep only the suffix of a name. */
	random?: boolean;
	/** Put before the name. Empty segments, `.` and `..` are left out. */
	folder?: string;
	/** Further form fields, such as the callback's `x:name`. */
	fields?: Record<string, string>;
	/** Cancels these uploads when it aborts. */
	signal?: AbortSignal;
}

export type State =
	| 'waiting' | 'signing' | 'uploading' | 'verifying' | 'done' | 'failed' | 'cancelled';

export interface Upload {
	readonly file: File;
	/** To show: the file's name or its path in the chosen folder, with a number if it repeats. */
	name: string;
	/** What `${filename}` in the policy's key stands for. */
	target: string;
	/** The object's key, once there is a policy. */
	key: string;
	/** The object's address (a private bucket asks for a signature), once there is a policy. */
	url: string;
	/** `done`: OSS answered 200 and, where the policy asks for a callback, with the callback
	 * server's JSON. */
	state: State;
	/** Is the object in the bucket? `maybe`: all was sent, and the response was lost. */
	stored: 'no' | 'maybe' | 'yes';
	/** Bytes sent. */
	loaded: number;
	/** Bytes per second over the last 5 s; 0 if nothing moves. */
	rate: number;
	/** Seconds left, Infinity if unknown. */
	left: number;
	/** Automatic tries after the first. */
	tries: number;
	/** What it waits for when it was interrupted. */
	pause: '' | 'retry' | 'offline';
	/** Why it failed or was interrupted. */
	error: Failure | null;
	/** The callback server's, undefined without callback. */
	answer: any;
}

export interface Failure {
	/** OSS's, or one of ours: NetworkError, NoAnswer, NotAllowed, PolicyExpired, PolicyMismatch,
	 * ProbablyStored, ServerError, ServerGone, Stalled, TicketFailed, Unexpected, Unreadable,
	 * WrongType. */
	code: string;
	/** Of the HTTP response. */
	status?: number;
	/** OSS's own words. */
	message?: string;
	/** OSS's number for the cause. */
	ec?: string;
	requestId?: string;
	/** In bytes, where the file breaks one. */
	limit?: number;
	/** What a file of the wrong type should have been. */
	types?: Limits['types'];
	/** Found before anything was sent; to try again is no use. */
	refused?: boolean;
	/** The object is in the bucket all the same. */
	stored?: boolean;
	/** May pass by itself, so it is tried again. */
	again?: boolean;
}

export interface Limits {
	/** Bytes. */
	min: number;
	max: number;
	/** The policy's conditions on the content type: operator and operand. */
	types: [string, string | string[]][];
}

export interface Total {
	files: number;
	done: number;
	/** Waiting or at work. */
	active: number;
	/** Failed, and not stored. */
	failed: number;
	/** Failed, but the object is, or may be, in the bucket. */
	unconfirmed: number;
	cancelled: number;
	/** Bytes of all files, and of those what is sent: a file that failed counts as not sent. */
	size: number;
	loaded: number;
	rate: number;
	/** Bytes that those at work still have to send. */
	rest: number;
}
